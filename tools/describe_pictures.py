"""Write into a model package which kinds of pictures it was trained on, from the data set that it was trained on.

    python tools/describe_pictures.py core/mambaseg/models/bundled/nuclei-2d ../shared/data/nuclei2d

Training writes this itself (`mambaseg.train.run`); packages that are older get it here. Weights stay as they are.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from mambaseg.models import read_model
from mambaseg.models.folder import write_description
from mambaseg.train.dataset import open_dataset


def main() -> int:
    package, data = map(Path, sys.argv[1:])
    found = open_dataset(data).signatures()
    write_description(dataclasses.replace(read_model(package), trained_on=found))
    print(f"{len(found)} signatures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
