"""A segmentation on its way from the child to the host, through files."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from mambaseg.segmentation import Segmentation

__all__ = ["Result", "read_probabilities", "read_result", "write_result"]

_PROBABILITIES = "probabilities.npy"


@dataclass(frozen=True)
class Result:
    """What a `mambaseg.Segmentation` holds, less the image, which the host has.

    Parameters
    ----------
    labels : unsigned integers, the image's axes without C; in memory, writable
    probabilities : float32, (output, *axes of the labels), mapped from its file; None unless asked for
    record : what ran on what; plain values
    table : the features as a structured array, one record an object; None for classes and regions
    """

    labels: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    record: dict[str, Any]
    table: NDArray[np.void] | None

    @functools.cached_property
    def features(self) -> pd.DataFrame | None:
        """One row an object, for instances; None for classes and regions."""
        if self.table is None:
            return None
        import pandas as pd  # slow to import, and not every host looks at the table

        return pd.DataFrame(self.table)


def write_result(folder: Path, result: Segmentation, prefix: str = "") -> dict[str, Any]:
    """Write a segmentation into a job's folder, into files that begin with `prefix`; what `read_result` needs."""
    names: dict[str, Any] = {"labels": f"{prefix}labels.npy", "record": f"{prefix}record.json"}
    np.save(folder / names["labels"], result.labels, allow_pickle=False)
    (folder / names["record"]).write_text(json.dumps(result.record), encoding="utf-8")
    if result.probabilities is not None:
        names["probabilities"] = _PROBABILITIES
        np.save(folder / _PROBABILITIES, result.probabilities, allow_pickle=False)
    if result.features is not None:
        names["features"] = f"{prefix}features.npy"
        np.save(folder / names["features"], result.features.to_records(index=False), allow_pickle=False)
    return names


def read_probabilities(folder: Path) -> NDArray[np.float32]:
    """What a job of the task "segment" kept in its folder, mapped from the file.

    Raises
    ------
    UserError : nothing was kept there
    """
    if not (folder / _PROBABILITIES).exists():
        raise UserError("Objects can be found again only where the probabilities were kept; segment the image again.")
    probabilities: NDArray[np.float32] = np.load(folder / _PROBABILITIES, mmap_mode="r", allow_pickle=False)
    return probabilities


def read_result(folder: Path, result: dict[str, Any]) -> Result:
    """What a job of the task "segment" or "decode" found.

    Parameters
    ----------
    folder : of the job
    result : of its event "result"
    """
    paths = {kind: folder / Path(str(name)).name for kind, name in result.items()}
    probabilities = table = None
    if "probabilities" in paths:
        probabilities = np.load(paths["probabilities"], mmap_mode="r", allow_pickle=False)
    if "features" in paths:
        table = np.load(paths["features"], allow_pickle=False)
    labels = np.load(paths["labels"], allow_pickle=False)
    return Result(labels, probabilities, json.loads(paths["record"].read_text(encoding="utf-8")), table)
