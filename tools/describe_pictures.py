"""Write into a model package which kinds of pictures it was trained on, from the data set that it was trained on.

    python tools/describe_pictures.py core/mambaseg/models/bundled/nuclei-2d ../shared/data/nuclei2d

Training writes this itself (`mambaseg.train.run`); packages that are older get it here. Weights stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from mambaseg.io.atomic import atomic_path
from mambaseg.models import read_model
from mambaseg.train.dataset import open_dataset


def main() -> int:
    package, data = map(Path, sys.argv[1:])
    model = read_model(package)
    found = open_dataset(data).signatures()
    with atomic_path(package / "model.json") as temporary:
        described = dataclasses.replace(model, trained_on=found)
        temporary.write_text(json.dumps(described.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(found)} signatures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
