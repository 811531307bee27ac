"""A folder of images and labels as training cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import io
from mambaseg._errors import DatasetError
from mambaseg.image import Image

__all__ = ["CaseFiles", "Dataset", "frame_of", "open_dataset"]

COLOURS = ("red", "green", "blue")
_MOST_CLASSES = 32  # more distinct label values than this are objects, not classes
_N_FOLDS, _FOLD_SEED = 5, 12345  # nnU-Net's split


@dataclass(frozen=True)
class CaseFiles:
    """Where one training example lies."""

    name: str
    image: Path
    labels: Path

    def read(self) -> tuple[Image, NDArray[Any]]:
        """The image and its labels (*spatial).

        Raises
        ------
        UserError : a file cannot be read, or the two do not lie on one grid
        """
        image, labels = io.read(self.image), io.read_labels(self.labels).data
        if image.has_time:
            raise DatasetError(f"{self.image} is a time series, but training takes single time points; split it.")
        if labels.shape != image.grid.shape:
            raise DatasetError(f"{self.labels.name} has {labels.shape} voxels, but its image {self.image.name} has "
                               f"{image.grid.shape}; both must lie on one grid.")
        return image, labels


@dataclass(frozen=True)
class Dataset:
    """Training and validation cases, and what the labels mean.

    Parameters
    ----------
    train, validation : file pairs; validation is held out from training
    instances : labels number objects; else they are classes
    classes : names by label value after `label_values`, background first
    label_values : value in the label files of each class, background first; empty for instances
    channels : name of each channel of a training image; grey pictures among colour ones are repeated
    ndim : spatial axes, 2 or 3
    unit : of the spacings
    info : what ``dataset.json`` says beside, such as licence and citation
    """

    train: tuple[CaseFiles, ...]
    validation: tuple[CaseFiles, ...]
    instances: bool
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    channels: tuple[str, ...]
    ndim: int
    unit: str
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def n_channels(self) -> int:
        """Channels of a training image."""
        return len(self.channels)

    def to_classes(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Label values of the files as class numbers 0, 1, 2, ...; instance numbers as they are."""
        if self.instances or self.label_values == tuple(range(len(self.label_values))):
            return labels
        return np.searchsorted(np.asarray(self.label_values), labels).astype(np.int32)

    def load(self, cases: Sequence[CaseFiles]) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], tuple[float, ...]]]:
        """Name, frame (channel, *spatial), labels (*spatial) and spacing of each case, one at a time."""
        for case in cases:
            image, labels = case.read()
            yield case.name, frame_of(image, self.n_channels), self.to_classes(labels), image.grid.spacing


def frame_of(image: Image, n_channels: int) -> NDArray[Any]:
    """The image as (channel, *spatial); one grey channel is repeated where more are wanted."""
    frame = next(image.frames())
    if len(frame) == 1 and n_channels > 1:
        return np.broadcast_to(frame, (n_channels, *frame.shape[1:]))
    return frame


def open_dataset(folder: Path, instances: bool | None = None) -> Dataset:
    """Look through a folder with ``images/`` and ``labels/``.

    An image and its labels share their name up to the suffix. ``split.json`` ({"train": [...], "val": [...]}, names)
    says what is held out, else every fifth case is (nnU-Net's first fold). ``dataset.json`` may give ``labels``
    ({name: value}) and ``label_type`` ("instance" or "semantic").

    Parameters
    ----------
    instances : whether labels number objects; None: as ``dataset.json`` says, else guessed from the values

    Raises
    ------
    DatasetError : a part is missing, or the cases do not agree with one another
    """
    pairs = _pairs(folder)
    info = _read_json(folder / "dataset.json")
    train, validation = _split(folder, pairs)
    seen = [_look(case) for case in (*train, *validation)]
    kinds = {(look.ndim, look.unit) for look in seen}
    if len({ndim for ndim, _ in kinds}) > 1:
        raise DatasetError(f"{folder} mixes 2-D pictures and volumes; train on one kind at a time.")
    n_channels = max(len(look.channels) for look in seen)
    odd = [case.name for case, look in zip((*train, *validation), seen, strict=True)
           if len(look.channels) not in (1, n_channels)]
    if odd:
        raise DatasetError(f"The images of {folder} differ in their channels: {odd[0]} has neither 1 nor "
                           f"{n_channels}; convert or remove it.")
    values = sorted(set().union(*(look.values for look in seen)) | {0})
    if instances is None:
        instances = _are_instances(info, values)
    names = () if instances else _class_names(info, values)
    units = {unit for _, unit in kinds}
    return Dataset(tuple(train), tuple(validation), instances, ("background", "object") if instances else names,
                   () if instances else tuple(values),
                   next(look.channels for look in seen if len(look.channels) == n_channels), seen[0].ndim,
                   units.pop() if len(units) == 1 else "px", info)


@dataclass(frozen=True)
class _Look:
    """What one case is like."""

    channels: tuple[str, ...]
    ndim: int
    unit: str
    values: frozenset[int]


def _look(case: CaseFiles) -> _Look:
    image, labels = case.read()
    n = image.n_channels
    names = COLOURS if image.is_rgb else image.channel_names or tuple(f"channel {i + 1}" for i in range(n))
    return _Look(names, image.ndim, image.grid.unit, frozenset(np.unique(labels).tolist()))


def _pairs(folder: Path) -> dict[str, CaseFiles]:
    """Case name -> files; every image needs labels and the other way round."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give one with images/ and labels/.")
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise DatasetError(f"{folder} has no folder {part}/; put pictures in images/ and labels in labels/, "
                               "with the same names.")
    images, labels = (_by_stem(folder / part) for part in ("images", "labels"))
    lonely = sorted(set(images) ^ set(labels))
    if lonely:
        side, other = ("images", "labels") if lonely[0] in images else ("labels", "images")
        raise DatasetError(f"{len(lonely)} files in {folder} have no partner; the first is {side}/{lonely[0]}, which "
                           f"has none in {other}/. Add or remove them.")
    if not images:
        raise DatasetError(f"{folder}/images holds no pictures; add some.")
    return {name: CaseFiles(name, images[name], labels[name]) for name in sorted(images)}


def _by_stem(folder: Path) -> dict[str, Path]:
    """Files by their name without suffix ('.nii.gz' and '.ome.tif' are one)."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        stem = path.name.split(".")[0] if path.is_file() else path.name
        if stem in found:
            raise DatasetError(f"{folder} has two files called {stem}: {found[stem].name} and {path.name}; "
                               "keep one of them.")
        found[stem] = path
    return found


def _split(folder: Path, pairs: dict[str, CaseFiles]) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Training and validation cases."""
    split = _read_json(folder / "split.json")
    if split:
        unknown = sorted({*split.get("train", []), *split.get("val", [])} - set(pairs))
        if unknown:
            raise DatasetError(f"{folder}/split.json names {unknown[0]}, which is not in images/; correct it.")
        train = [pairs[name] for name in split.get("train", [])]
        if not train:
            raise DatasetError(f"{folder}/split.json has no training cases; list some under \"train\".")
        return train, [pairs[name] for name in split.get("val", [])]
    names = sorted(pairs)
    if len(names) < _N_FOLDS:
        return [pairs[name] for name in names], []  # too few to hold one out
    shuffled = np.arange(len(names))
    np.random.RandomState(_FOLD_SEED).shuffle(shuffled)  # the generator that nnU-Net's split uses
    n_held_out = len(names) // _N_FOLDS + (len(names) % _N_FOLDS > 0)
    held_out = {names[i] for i in shuffled[:n_held_out]}
    return [pairs[n] for n in names if n not in held_out], [pairs[n] for n in names if n in held_out]


def _read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a file, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path} is not readable JSON ({error}); correct or remove it.") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path} holds a {type(values).__name__}, but a dictionary was expected.")
    return values


def _are_instances(info: dict[str, Any], values: list[int]) -> bool:
    """What ``dataset.json`` says, else many distinct values mean objects."""
    kind = info.get("label_type")
    return bool(kind == "instance") if kind else len(values) > _MOST_CLASSES


def _class_names(info: dict[str, Any], values: list[int]) -> tuple[str, ...]:
    """Names of the classes by label value; "class 3" where ``dataset.json`` gives none."""
    labels = info.get("labels")
    given = labels.items() if isinstance(labels, dict) else ()
    named = {value: name for name, value in given if isinstance(value, int)}
    return tuple("background" if value == 0 else str(named.get(value, f"class {value}")) for value in values)
