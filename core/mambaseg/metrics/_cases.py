"""Pairs of true and predicted labels, from whatever was given: arrays, images, files or folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import io
from mambaseg._errors import DatasetError, UserError
from mambaseg.image import Image

__all__ = ["Case", "Cases", "Labels", "pair"]

Labels = NDArray[Any] | Image | str | Path
"""Labels of one picture, or a path to them; a path may also be a folder of many."""


@dataclass(frozen=True)
class Case:
    """True and predicted labels of one picture.

    Parameters
    ----------
    name : file name without suffix, or a number
    truth, prediction : integer labels of the same shape
    spacing : voxel size per axis in `unit`; 1 where it is not known
    unit : "mm", "um" or "px"
    """

    name: str
    truth: NDArray[Any]
    prediction: NDArray[Any]
    spacing: tuple[float, ...]
    unit: str


class Cases:
    """Cases that are read one by one, as often as they are asked for."""

    def __init__(self, readers: Sequence[Callable[[], Case]]) -> None:
        self._readers = readers

    def __iter__(self) -> Iterator[Case]:
        return (read() for read in self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __getitem__(self, index: int) -> Case:
        return self._readers[index]()


def pair(truth: Labels | Sequence[Labels], prediction: Labels | Sequence[Labels]) -> Cases:
    """Match true labels with predictions: folders by file name, everything else in the order given.

    A prediction may carry the name of the truth with `_labels` behind it, as `mambaseg segment` writes it.

    Raises
    ------
    DatasetError : a folder without labels, a truth without a prediction, lists of different lengths
    """
    if _is_folder(truth) and _is_folder(prediction):
        return _pair_folders(Path(str(truth)), Path(str(prediction)))
    truths, predictions = _as_list(truth), _as_list(prediction)
    if not truths or len(truths) != len(predictions):
        raise DatasetError(f"There are {len(truths)} true label images and {len(predictions)} predicted ones; "
                           "give one prediction for each, in the same order, or two folders with matching names.")
    return Cases([_reader(_name(one, number), one, other)
                  for number, (one, other) in enumerate(zip(truths, predictions, strict=True))])


def _is_folder(labels: Any) -> bool:
    return isinstance(labels, str | Path) and Path(labels).is_dir()


def _as_list(labels: Labels | Sequence[Labels]) -> list[Labels]:
    if isinstance(labels, np.ndarray | Image | str | Path):
        return [labels]
    return list(labels)


def _name(labels: Labels, number: int) -> str:
    return _stem(Path(labels)) if isinstance(labels, str | Path) else str(number)


def _stem(path: Path) -> str:
    return path.name[:len(path.name) - len(io.suffix_of(path))].removesuffix("_labels")


def _pair_folders(truth: Path, prediction: Path) -> Cases:
    truths, predictions = _label_files(truth), _label_files(prediction)
    missing = sorted(truths.keys() - predictions.keys())
    if missing:
        raise DatasetError(f"{len(missing)} of the {len(truths)} label files in {truth} have no prediction in "
                           f"{prediction} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); "
                           "predictions need the same names, with or without _labels.")
    return Cases([_reader(name, truths[name], predictions[name]) for name in sorted(truths)])


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or io.suffix_of(path) not in io.READABLE:
            continue
        if _stem(path) in files:
            raise DatasetError(f"{folder} holds both {files[_stem(path)].name} and {path.name} for one picture; "
                               "keep only the one that should count.")
        files[_stem(path)] = path
    if not files:
        raise DatasetError(f"{folder} holds no label files; give a folder with TIFF, PNG, NIfTI, NRRD or MHA files.")
    return files


def _reader(name: str, truth: Labels, prediction: Labels) -> Callable[[], Case]:
    def read() -> Case:
        true, spacing, unit = _load(truth)
        predicted, _, _ = _load(prediction)
        if true.shape != predicted.shape:
            raise UserError(f"The true labels of {name} have shape {true.shape} and the predicted ones "
                            f"{predicted.shape}; compare label images of the same picture, on the same grid.")
        return Case(name, true, predicted, spacing, unit)
    return read


def _load(labels: Labels) -> tuple[NDArray[Any], tuple[float, ...], str]:
    """Integer labels with their spacing and its unit."""
    image = io.read_labels(labels) if isinstance(labels, str | Path) else labels
    data = np.asarray(image.data if isinstance(image, Image) else image)
    if data.dtype.kind not in "iub":
        raise UserError(f"The labels are {data.dtype} numbers, but labels are whole numbers; "
                        "convert the array to an integer type.")
    if isinstance(image, Image) and len(image.grid.spacing) == data.ndim:
        return data, image.grid.spacing, image.grid.unit
    return data, (1.0,) * data.ndim, "px"
