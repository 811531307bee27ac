"""Finding the cases of a data set: folders of pairs, nnU-Net's raw folders, and tables of paths."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mambaseg import io
from mambaseg._errors import DatasetError
from mambaseg.image import Image
from mambaseg.io.channels import read_channels
from mambaseg.train.split import Split

__all__ = ["CaseFiles", "Source", "find_cases", "label_names"]

_LABEL_COLUMNS = ("labels", "label", "mask")
_NAME_COLUMNS = ("name", "case", "id")


@dataclass(frozen=True)
class CaseFiles:
    """Where one training example lies.

    Parameters
    ----------
    name : of the case
    images : one file, or one for each channel
    labels : the file with its labels
    channels : names of the channels; empty: as the files say
    """

    name: str
    images: tuple[Path, ...]
    labels: Path
    channels: tuple[str, ...] = ()

    def read_image(self) -> Image:
        """The image with all its channels.

        Raises
        ------
        UserError : a file cannot be read, or the channels do not lie on one grid
        """
        return read_channels(self.images, self.channels)

    def read(self) -> tuple[Image, NDArray[Any]]:
        """The image and its labels (*spatial).

        Raises
        ------
        UserError : a file cannot be read, or the two do not lie on one grid
        """
        image, labels = self.read_image(), io.read_labels(self.labels).data
        if labels.shape != image.grid.shape:
            raise DatasetError(f"{self.labels.name} has {labels.shape} voxels, but its image {self.images[0].name} has "
                               f"{image.grid.shape}; both must lie on one grid.")
        return image, labels


@dataclass(frozen=True)
class Source:
    """What lies in a data set, before a file of it is read.

    Parameters
    ----------
    path : folder or table
    cases : by name
    info : content of ``dataset.json``, {} where there is none
    splits : what to train on and to hold out, the first is used; empty: not said
    problems : sentences about what is missing or doubled
    is_nnunet : a raw folder of nnU-Net's
    """

    path: Path
    cases: dict[str, CaseFiles]
    info: dict[str, Any] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    problems: tuple[str, ...] = ()
    is_nnunet: bool = False


def find_cases(path: Path) -> Source:
    """The cases of a data set, in one of three forms.

    - a folder with ``images/`` and ``labels/``; an image and its labels share their name up to the suffix.
      ``split.json`` ({"train": [...], "val": [...]}, names) may say what is held out
    - a raw folder of nnU-Net's: ``imagesTr/CASE_0000.*``, a file a channel, ``labelsTr/CASE.*``, and ``dataset.json``,
      which may list the files under "dataset" instead
    - a CSV table with the columns image (or image_0, image_1, ... for the channels) and labels, and perhaps name and
      split (train or val); paths are relative to the table

    Raises
    ------
    DatasetError : it is none of these, or holds no case
    """
    if path.is_file():
        source = _table(path)
    elif not path.is_dir():
        raise DatasetError(f"{path} is not a folder and no table; give a folder with images/ and labels/, a raw folder "
                           "of nnU-Net's, or a CSV table of paths.")
    else:
        listed = _read_json(path / "dataset.json", dict).get("dataset")
        is_raw = (path / "imagesTr").is_dir() or isinstance(listed, dict)
        source = _raw_folder(path) if is_raw else _pairs_folder(path)
    if not source.cases and not source.problems:
        raise DatasetError(f"{path} holds no pictures; add some.")
    return source


def label_names(info: Mapping[str, Any]) -> dict[int, str]:
    """Names of label values by ``dataset.json``, {} where it does not say; a value of several regions has the first."""
    labels = info.get("labels")
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        if isinstance(value, str) and str(key).isdigit():  # the other way round, as nnU-Net 1 had it
            key, value = value, int(key)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(number, int) for number in values):
            return {}
        for number in values:
            names.setdefault(int(number), str(key))
    return names


# --- folders of pairs -------------------------------------------------------------------------------------------------

def _pairs_folder(folder: Path) -> Source:
    """``images/`` and ``labels/``."""
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise DatasetError(f"{folder} has no folder {part}/; put pictures in images/ and labels in labels/, "
                               "with the same names.")
    problems: list[str] = []
    images, labels = (_by_stem(folder / part, problems) for part in ("images", "labels"))
    problems += [f"images/{images[name].name} has no labels; add labels/{name}.* or remove it"
                 for name in sorted(images.keys() - labels)]
    problems += [f"labels/{labels[name].name} has no image; add images/{name}.* or remove it"
                 for name in sorted(labels.keys() - images)]
    cases = {name: CaseFiles(name, (images[name],), labels[name]) for name in sorted(images.keys() & labels)}
    split = _read_json(folder / "split.json", dict)
    splits = _splits([split] if split else [], {*images, *labels}, f"{folder}/split.json", problems)
    return Source(folder, cases, _read_json(folder / "dataset.json", dict), splits, tuple(problems))


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Files by their name without suffix ('.nii.gz' and '.ome.tif' are one)."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        stem = path.name.split(".")[0] if path.is_file() else path.name
        if stem in found:
            problems.append(f"{folder.name}/ has two files called {stem}: {found[stem].name} and {path.name}; keep one")
        found[stem] = path
    return found


def _splits(given: Iterable[Any], names: set[str], path: str, problems: list[str]) -> tuple[Split, ...]:
    """Splits from JSON; what cannot be used is a problem."""
    splits = []
    for one in given:
        if not isinstance(one, dict):
            problems.append(f"{path} is not a split; write {{\"train\": [...], \"val\": [...]}}")
            continue
        split = Split(list(one.get("train", [])), list(one.get("val", [])))
        problems += [f"{path} names {name}, which is not there; correct it"
                     for name in sorted({*split.train, *split.val} - names)]
        if not split.train:
            problems.append(f'{path} has no training cases; list some under "train"')
        splits.append(split)
    return tuple(splits)


# --- nnU-Net's raw folders --------------------------------------------------------------------------------------------

def _raw_folder(folder: Path) -> Source:
    """``imagesTr/``, ``labelsTr/`` and ``dataset.json``."""
    info = _read_json(folder / "dataset.json", dict)
    if not info:
        raise DatasetError(f"{folder} has imagesTr/ but no dataset.json; a raw folder of nnU-Net's needs one with "
                           "channel_names, labels, numTraining and file_ending.")
    ending = str(info.get("file_ending", ".nii.gz"))
    given = info.get("channel_names", info.get("modality", {}))
    channels = tuple(str(given[key]) for key in sorted(given, key=int)) if isinstance(given, dict) else ()
    problems: list[str] = []
    images = _channel_files(folder, info, ending)
    labels = _label_files(folder, info, ending)
    cases = {}
    for name in sorted(images.keys() | labels):
        if name not in labels or not labels[name].is_file():
            problems.append(f"labelsTr/{name}{ending} is missing; add it, or remove the images of {name}")
        elif name not in images:
            problems.append(f"imagesTr/{name}_0000{ending} is missing; add it, or remove labelsTr/{labels[name].name}")
        elif not all(path.is_file() for path in images[name]):
            problems += [f"{path} is missing, but dataset.json lists it" for path in images[name] if not path.is_file()]
        else:
            cases[name] = CaseFiles(name, images[name], labels[name], channels)
    splits = _splits(_read_json(folder / "splits_final.json", list), {*cases}, f"{folder}/splits_final.json", problems)
    told = info.get("numTraining")
    if isinstance(told, int) and told != len(images):
        problems.append(f"dataset.json says numTraining {told}, but imagesTr/ holds {len(images)} cases; correct it")
    return Source(folder, cases, info, splits, tuple(problems), is_nnunet=True)


def _channel_files(folder: Path, info: Mapping[str, Any], ending: str) -> dict[str, tuple[Path, ...]]:
    """Image files of each case, in the order of their channel numbers."""
    listed = info.get("dataset")
    if isinstance(listed, dict):
        return {name: tuple(folder / os.path.expandvars(path) for path in one["images"])
                for name, one in listed.items()}
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "imagesTr").glob(f"*{ending}")):
        stem, _, number = path.name.removesuffix(ending).rpartition("_")
        if number.isdigit() and not path.name.startswith("."):
            found.setdefault(stem, []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def _label_files(folder: Path, info: Mapping[str, Any], ending: str) -> dict[str, Path]:
    """Label file of each case."""
    listed = info.get("dataset")
    if isinstance(listed, dict):
        return {name: folder / os.path.expandvars(one["label"]) for name, one in listed.items()}
    return {path.name.removesuffix(ending): path for path in sorted((folder / "labelsTr").glob(f"*{ending}"))
            if not path.name.startswith(".")}


# --- tables -----------------------------------------------------------------------------------------------------------

def _table(path: Path) -> Source:
    """A CSV file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no readable table ({error}); give a CSV file with the columns image and "
                           "labels.") from error
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    columns = [name.strip() for name in header.split(delimiter)]
    images = sorted(name for name in columns if name.startswith("image"))
    labels = next((name for name in _LABEL_COLUMNS if name in columns), None)
    if not images or labels is None:
        raise DatasetError(f"{path} has the columns {', '.join(columns) or 'none'}, expected image (or image_0, "
                           "image_1, ...) and labels; write them into the first line.")
    problems: list[str] = []
    cases: dict[str, CaseFiles] = {}
    split = Split([], [])
    for number, row in enumerate(rows, 2):
        case = _row(path, {key.strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str)},
                    images, labels)
        missing = [file for file in (*case.images, case.labels) if not file.exists()]
        problems += [f"line {number}: {file} is not there; correct the path" for file in missing]
        if case.name in cases:
            problems.append(f"line {number}: a second case is called {case.name}; give it another name")
        if not missing:
            cases[case.name] = case
        (split.val if str(row.get("split", "")).strip().startswith("val") else split.train).append(case.name)
    return Source(path, cases, {}, (split,) if split.val else (), tuple(problems))


def _row(path: Path, row: Mapping[str, str], images: list[str], labels: str) -> CaseFiles:
    """One line of a table."""
    files = tuple(path.parent / row[column] for column in images if row.get(column))
    name = next((row[column] for column in _NAME_COLUMNS if row.get(column)), "")
    return CaseFiles(name or (files[0].name.split(".")[0] if files else ""), files, path.parent / row.get(labels, ""))


def _read_json(path: Path, kind: type[Any]) -> Any:
    """The content of a file, empty where there is none."""
    if not path.is_file():
        return kind()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path} is not readable JSON ({error}); correct or remove it.") from error
    if not isinstance(values, kind):
        raise DatasetError(f"{path} holds a {type(values).__name__}, but a {kind.__name__} was expected; correct it.")
    return values
