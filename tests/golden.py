"""Run a folder of nnU-Net fixtures: ``python tests/golden.py FOLDER [KIND ...]``.

Each subfolder is a kind (plans, preproc, resample, sliding, ...) of numbers that the real nnU-Net gave. Prints a line a
fixture, ``NAME difference tolerance ok|FAIL|unknown``: of all comparisons of the fixture the one nearest to its
tolerance. Exit status 1 when something fails, or is of a kind that this project does not reproduce. What a fixture
lacks is not compared, and what it keeps in half precision is held to 2e-3 of its size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from golden_compare import Check, Found
from golden_planning import plans, preproc, rawdata, resampling
from golden_predicting import models, sliding, state_dict_keys
from golden_training import augment, metrics, rules, training_losses

KINDS: dict[str, Callable[[Path], Found]] = {
    "augment": augment, "loss": training_losses, "metrics": metrics, "models": models,
    "models_state_dict_keys.json": state_dict_keys, "plans": plans, "preproc": preproc, "rawdata": rawdata,
    "resample": resampling, "rules": rules, "sliding": sliding,
}


def fixtures(folder: Path, kinds: list[str]) -> Found:
    """All fixtures of a folder, or of some kinds; a folder that is itself named as a kind counts as that kind.

    Files beside the folders that are of no kind are passed over, folders are not.
    """
    if folder.name in KINDS and not any((folder / kind).is_dir() for kind in KINDS):
        folder, kinds = folder.parent, [folder.name]
    names = kinds or sorted(path.name for path in folder.iterdir() if path.is_dir() or path.name in KINDS)
    for name in names:
        if name in KINDS:
            yield from KINDS[name](folder / name)
        else:
            yield name, None


def nearest(found: list[Check]) -> Check:
    """The failing check if there is one, else the one nearest to its tolerance."""
    return max(found, key=lambda c: (not c.passes, c.difference / c.tolerance if c.tolerance else c.difference))


def main(arguments: list[str]) -> int:
    status = 0
    for name, found in fixtures(Path(arguments[0]), arguments[1:]):
        if found is None:
            print(f"{name} - - unknown", flush=True)
            status = 1
            continue
        if not found:  # the fixture lacks all that could be compared
            continue
        worst = nearest(found)
        if not worst.passes:
            status = 1
            print(json.dumps({name: [c._asdict() for c in found if not c.passes]}), file=sys.stderr)
        print(f"{name} {worst.difference:.3g} {worst.tolerance:.3g} {'ok' if worst.passes else 'FAIL'}", flush=True)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/golden.py FOLDER [KIND ...]")
    sys.exit(main(sys.argv[1:]))
