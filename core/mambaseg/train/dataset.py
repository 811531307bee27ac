"""A data set of images and labels as training cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import DatasetError, DatasetProblems
from mambaseg.image import Image
from mambaseg.models.domains import Signatures, representatives, signature
from mambaseg.orientation import orientation_of, turn_to, turned_image
from mambaseg.plan.fingerprint import Fingerprint, combine, measure
from mambaseg.progress import ProgressCallback
from mambaseg.train.check import MOST_CLASSES, Look, look_through, problems_between
from mambaseg.train.files import CaseFiles, Source, find_cases, label_names
from mambaseg.train.split import N_FOLDS, Split, split_of_fold

__all__ = ["CaseFiles", "Dataset", "frame_of", "open_dataset"]

_MOST_LOOKED_AT = 256  # pictures, to tell their kinds
_MANY_VALUES = 32  # more distinct label values than this are objects, not classes


@dataclass(frozen=True)
class Dataset:
    """Training and validation cases, and what the labels mean.

    Parameters
    ----------
    train, validation : file pairs; validation is held out from training
    instances : labels number objects; else they are classes
    classes : names by label value after `label_values`, background first; or of the regions
    label_values : value in the label files of each class, background first; empty for instances and regions
    channels : name of each channel of a training image; grey pictures among colour ones are repeated
    ndim : spatial axes, 2 or 3
    unit : of the spacings
    info : what ``dataset.json`` says beside, such as licence and citation
    looks : what the check saw of each case, by name
    regions : label values that each region is made of, where classes nest; else empty
    region_order : label value that each region is painted with
    ignore_value : value in the label files of voxels that count neither in training nor in scores; None: there is none
    orientation : where the axes of most volumes lead, see `mambaseg.orientation`; the others are turned to it. Empty:
        some do not tell
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
    looks: Mapping[str, Look] = field(default_factory=dict, repr=False, compare=False)
    regions: tuple[tuple[int, ...], ...] = ()
    region_order: tuple[int, ...] = ()
    ignore_value: int | None = None
    orientation: str = ""

    @property
    def kind(self) -> str:
        """What a model of it finds: classes, regions or instances."""
        return "instances" if self.instances else "regions" if self.regions else "classes"

    @property
    def n_outputs(self) -> int:
        """Outputs of its network: background, interior and boundary; or one a region; or one a class."""
        return 3 if self.instances else len(self.regions) or len(self.classes)

    @property
    def ignore_class(self) -> int | None:
        """What `to_classes` makes of `ignore_value`, which is the greatest value."""
        return None if self.ignore_value is None else self.ignore_value if self.regions else len(self.classes)

    @property
    def n_channels(self) -> int:
        """Channels of a training image."""
        return len(self.channels)

    def to_classes(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Label values of the files as class numbers 0, 1, 2, ...; of instances and regions as they are."""
        is_in_order = self.label_values == tuple(range(len(self.label_values))) and self.ignore_value is None
        if self.instances or self.regions or is_in_order:
            return labels
        return np.searchsorted(np.asarray(self.label_values), labels).astype(np.int32)

    def load(self, cases: Sequence[CaseFiles]) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], tuple[float, ...]]]:
        """Name, frame (channel, *spatial), labels (*spatial) and spacing of each case, one at a time."""
        for case in cases:
            image, labels = case.read()
            turn = turn_to(self.orientation, image.grid)
            image, labels = turned_image(image, turn), turn(labels)
            yield case.name, frame_of(image, self.n_channels), self.to_classes(labels), image.grid.spacing

    def signatures(self) -> Signatures:
        """Which kinds of pictures the training cases are, as a model keeps it; at most 256 of them are looked at."""
        step = -(-len(self.train) // _MOST_LOOKED_AT)
        return representatives([signature(frame) for _, frame, _, _ in self.load(self.train[::step])])

    def fingerprint(self, cases: Sequence[CaseFiles], crop: bool) -> Fingerprint:
        """Sizes and brightness of some cases, as the check measured them.

        Parameters
        ----------
        cases : of this data set
        crop : to nonzero before measuring; the files are read again where the check did otherwise
        """
        looks = [self.looks[case.name] for case in cases if case.name in self.looks]
        measures = [look.turned_measure(self.orientation) for look in looks]
        if len(measures) == len(cases) and all(measured.is_cropped == crop for measured in measures):
            return combine(measures, self.unit, self.n_channels)
        frames = ((frame, labels, spacing) for _, frame, labels, spacing in self.load(cases))
        return measure(frames, len(cases), unit=self.unit, crop=crop, evenly=True)


def frame_of(image: Image, n_channels: int) -> NDArray[Any]:
    """The image as (channel, *spatial); one grey channel is repeated where more are wanted."""
    frame = next(image.frames())
    if len(frame) == 1 and n_channels > 1:
        return np.broadcast_to(frame, (n_channels, *frame.shape[1:]))
    return frame


def open_dataset(folder: Path | str, instances: bool | None = None, *, fold: int | str = 0, crop: bool | None = None,
                 progress: ProgressCallback | None = None) -> Dataset:
    """Look through a data set: each file is read once, and everything that is wrong is told at once.

    A file beside the cases may say what is held out (see `mambaseg.train.files.find_cases`), else it is one of five
    folds as nnU-Net makes them. ``dataset.json`` may give ``labels`` ({name: value}) and ``label_type`` ("instance" or
    "semantic"). Where a class is a list of values, all become regions that may nest, painted as ``regions_class_order``
    says; the label "ignore" marks voxels that do not count. Both are nnU-Net's.

    Parameters
    ----------
    folder : a folder or table in one of the forms of `mambaseg.train.files.find_cases`
    instances : whether labels number objects; None: as ``dataset.json`` says, else guessed from the values
    fold : which split, counted from 0; "all" holds nothing out, whatever the data set says
    crop : see `mambaseg.train.check.look_through`
    progress : called after each case

    Raises
    ------
    DatasetError : it is no data set
    DatasetProblems : cases are incomplete, or do not agree with one another
    """
    folder = Path(folder)
    source = find_cases(folder)
    kind = source.info.get("label_type")
    if instances is None and kind:
        instances = bool(kind == "instance")
    names = {} if instances else label_names(source.info)
    looks, problems = look_through(list(source.cases.values()), names, crop, progress)
    problems = [*source.problems, *problems, *problems_between(looks, source.cases)]
    values = sorted(set[int]().union(*(look.values for look in looks.values())) | {0})
    if instances is None:
        instances = not names and len(values) > _MANY_VALUES
    if not instances and len(values) > MOST_CLASSES:
        problems.append(f"the labels hold {len(values):,} different values, but a network learns {MOST_CLASSES} "
                        "classes at most; merge classes, or use --instances if the labels number objects")
    if problems:
        raise DatasetProblems(folder, problems)
    regions = {} if instances else _regions(source.info)
    ignore = None if instances else next((value for value, name in names.items() if name == "ignore"), None)
    train, validation = _parts(source, fold)
    units = {look.unit for look in looks.values()}
    channels = max((look.channels for look in looks.values()), key=len)
    values = [] if instances or regions else [value for value in values if value != ignore]
    classes = ("background", *(regions or ["object"])) if not values else tuple(
        "background" if value == 0 else names.get(value, f"class {value}") for value in values)
    return Dataset(train, validation, instances, classes, tuple(values), channels,
                   next(iter(looks.values())).ndim, units.pop() if len(units) == 1 else "px", source.info, looks,
                   tuple(regions.values()), _region_order(folder, source.info, regions), ignore,
                   _usual_orientation(looks.values()))


def _usual_orientation(looks: Iterable[Look]) -> str:
    """Where the axes of most volumes lead, of equals the first in the alphabet; empty where one does not tell."""
    counts = Counter(orientation_of(look.grid) for look in looks)
    return "" if "" in counts else min(counts, key=lambda orientation: (-counts[orientation], orientation))


def _regions(info: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Label values of each region, in the order of ``dataset.json``; {} where its classes exclude each other."""
    labels = info.get("labels")
    named = {str(name): value if isinstance(value, list) else [value]
             for name, value in (labels.items() if isinstance(labels, Mapping) else ())}
    if not any(len(values) > 1 for values in named.values()):
        return {}
    return {name: tuple(values) for name, values in named.items() if name != "ignore" and values != [0]}


def _region_order(folder: Path, info: Mapping[str, Any], regions: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Label value that each region is painted with."""
    order = info.get("regions_class_order")
    if not regions:
        return ()
    if not isinstance(order, list) or len(order) != len(regions) or not all(
            isinstance(value, int) and value > 0 for value in order):
        raise DatasetError(f"{folder}/dataset.json has regions ({', '.join(regions)}), but no \"regions_class_order\" "
                           f"of {len(regions)} label values, one for each; add it.")
    return tuple(order)


def _parts(source: Source, fold: int | str) -> tuple[tuple[CaseFiles, ...], tuple[CaseFiles, ...]]:
    """Training and validation cases."""
    names = sorted(source.cases)
    if not source.splits and len(names) < N_FOLDS:
        split = Split(names, [])  # too few to hold one out
    else:
        alone = len(source.splits) == 1 and not source.is_nnunet  # what split.json or a table says holds for any fold
        split = source.splits[0] if alone and fold != "all" else split_of_fold(names, fold, source.splits or None)
    train, held_out = (tuple(source.cases[name] for name in part) for part in split)
    return train, held_out
