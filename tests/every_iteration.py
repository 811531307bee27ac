"""`mambaseg`, but a training in single precision that writes down its loss after every iteration.

Alone, or started by torchrun:

    python tests/every_iteration.py train DATA -o MODEL --iterations 4
"""

import functools
import sys

from mambaseg.cli import main
from mambaseg.train import run


def _settings(make, *arguments, **options):
    return make(*arguments, **{**options, "validate_every": 1, "n_validation_batches": 1, "precision": "float32"})


if __name__ == "__main__":
    run.Settings = functools.partial(_settings, run.Settings)
    main(sys.argv[1:])
