"""What a training found on the cases held out, kept beside its state: scores, and the labels of each case."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mambaseg import io
from mambaseg.io.atomic import atomic_path
from mambaseg.train.files import CaseFiles

__all__ = ["Validation", "load_validation", "save_validation"]

_SCORES = "validation.json"
_FOLDER = "validation"


@dataclass(frozen=True)
class Validation:
    """Scores of the cases held out, and where their files are.

    Parameters
    ----------
    scores : as `mambaseg.evaluate` gives them
    files : of each case, in the order of the scores
    predictions : label file of each case
    """

    scores: dict[str, Any]
    files: tuple[CaseFiles, ...]
    predictions: tuple[Path, ...]


def save_validation(work: Path, scores: dict[str, Any], files: Sequence[CaseFiles],
                    labels: Sequence[NDArray[Any]]) -> None:
    """Write predicted labels, and the scores with where everything lies.

    Parameters
    ----------
    work : folder of the training's state
    scores, files, labels : of the cases held out, in one order
    """
    listed = []
    for case, found in zip(files, labels, strict=True):
        suffix = io.suffix_of(io.labels_path(case.images[0], work))
        path = work / _FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', case.name)}_labels{suffix}"
        io.write_labels(found, case.read_image(), path)
        listed.append({"name": case.name, "images": [str(image) for image in case.images], "labels": str(case.labels),
                       "channels": list(case.channels), "prediction": path.name})
    with atomic_path(work / _SCORES) as temporary:
        temporary.write_text(json.dumps({"scores": scores, "files": listed}, indent=2), encoding="utf-8")


def load_validation(work: Path) -> Validation | None:
    """What `save_validation` wrote; None where nothing was held out."""
    path = work / _SCORES
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    files = tuple(CaseFiles(one["name"], tuple(map(Path, one["images"])), Path(one["labels"]), tuple(one["channels"]))
                  for one in kept["files"])
    return Validation(kept["scores"], files, tuple(work / _FOLDER / one["prediction"] for one in kept["files"]))
