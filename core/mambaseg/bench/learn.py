"""How much of the way to a model trained on everything a few corrections go, and how fast.

A simulated user corrects pictures of a kind that the model never saw. The gap is the score of a model trained on all
pictures of that kind less the untouched model's, F1 at IoU 0.5 on held-out pictures; 1 is closed, 0 is nothing gained.
"Seconds" are iterations of this machine: how many it does in a minute from pressing Learn to the new model, reading
and saving included, is measured first, so that a busy moment in the middle of a study does not shorten one of the
rivals' training.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg._errors import DatasetError
from mambaseg.bench.pictures import bright, phase
from mambaseg.bench.small import train_small
from mambaseg.image import Image
from mambaseg.learn.examples import Example
from mambaseg.learn.finetune import finetune
from mambaseg.learn.head import InstantSession
from mambaseg.learn.objective import FREE, Policy
from mambaseg.learn.simulate import correct_objects, correct_region, correct_slices, stroke
from mambaseg.metrics import f1
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.nets.registry import build
from mambaseg.progress import Progress
from mambaseg.segmentation import segment
from mambaseg.segmentation.run import as_image
from mambaseg.train.dataset import CaseFiles, Dataset, open_dataset
from mambaseg.train.run import train

__all__ = ["run"]

_T = TypeVar("_T")
Picture = tuple[Image | NDArray[Any], NDArray[Any]]  # an array is grey, (y, x); object numbers or classes

_N_PICTURES = 4  # that a user goes through for 20 objects: five in each
_VIEW_PX = 512
_QUICK = dataclasses.replace(FREE, rate=3e-3, patch_size=64)  # of a network made in seconds
_PARENT_MINUTES = 10.0  # of training on fluorescence
_N_TIMED = 16  # iterations whose pace is measured
_SHIFT_VOXELS = 6  # of the border between the two halves of the hippocampus


class _Pace(NamedTuple):
    """Seconds that an iteration takes on this machine, and before and after all of them: in any case, and a picture."""

    each: float
    beside: float = 0.0
    a_picture: float = 0.0

    def iterations(self, seconds: float, n_pictures: int = 1) -> int:
        """As many as fit into a time; at least one."""
        return max(1, round((seconds - self.beside - n_pictures * self.a_picture) / self.each))


@dataclass(frozen=True)
class _Study:
    """What is compared.

    Parameters
    ----------
    parent, ceiling : the untouched model, and one trained on all pictures of the new kind
    corrected : pictures that the user goes through, `_N_PICTURES` for each seed; of no two seeds the same
    new, old : held-out pictures of the new kind, and of the parent's own
    pace : how many iterations stand for a time
    policy : of fine-tuning; None: the default
    """

    parent: Model
    ceiling: Model
    corrected: Sequence[Sequence[Picture]]
    new: Sequence[Picture]
    old: Sequence[Picture]
    pace: _Pace
    folder: Path
    policy: Policy | None = None

    def score(self, model: Model, pictures: Sequence[Picture]) -> float:
        """Mean over pictures: F1 at IoU 0.5, or the mean Dice of the classes."""
        rate = f1 if model.kind == "instances" else _mean_dice
        return float(np.mean([rate(truth, segment(image, model).labels) for image, truth in pictures]))

    def corrections(self, index: int, amount: int, n_pictures: int) -> list[Example]:
        """What a user says of as many pictures, in all."""
        return _corrections(self.parent, self.corrected[index][:n_pictures], amount, index)

    def stroke(self, index: int, found: NDArray[Any], corrections: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        """One more correction of what is in view: an object and the ground around it, or a dab of the brush."""
        _, truth = self.corrected[index][0]
        if self.parent.kind == "instances":
            return list(correct_objects(truth, found, 1, index, corrections))
        dab = stroke(truth, np.where(corrections > 0, truth, found), 1)
        return [np.where(dab > 0, dab, corrections)]


def run(quick: bool = False, data: Path | None = None, n_seeds: int = 5,
        say: Callable[[str], None] | None = None) -> dict[str, float]:
    """Figures of learning from corrections.

    Parameters
    ----------
    quick : one seed, a small model, drawn pictures; below 45 s on two cores
    data : folder with ``cells2d`` and ``nuclei2d``: from the bundled nuclei model to phase contrast, and from a model
        trained on fluorescence alone to tissue and to brightfield; and, where it has ``hippocampus3d``, from the
        bundled model to another border between the two classes. None: drawn pictures, from bright discs to grey ones
        with a rim
    n_seeds : users, each with pictures of their own; medians over them
    say : called with a line for each thing measured; None: nobody listens

    Raises
    ------
    DatasetError : `data` lacks one of the sets
    """
    say = say or _nobody
    with tempfile.TemporaryDirectory(prefix="mambaseg-") as folder:
        figures = {"instant_seconds_median": _instant_seconds(3 if quick else 9)}
        if data is None:
            study = _drawn(Path(folder), 1 if quick else n_seeds, 40 if quick else 150)
            return figures | _compare(study, say, quick=quick)
        cells, nuclei = _sets(Path(data))
        say("from nuclei-2d to phase contrast")
        figures |= _compare(_cells(cells, nuclei, Path(folder), n_seeds), say)
        parent = _fluorescence(nuclei, Path(folder))
        for category in ("histology", "brightfield"):
            say(f"from fluorescence to {category}")
            other = _compare(_nuclei(nuclei, category, parent, Path(folder), n_seeds), say)
            figures |= {f"{category}_{name}": value for name, value in other.items()}
        if (Path(data) / "hippocampus3d").is_dir():
            say("from hippocampus-mri to another border")
            moved = _compare(_hippocampus(Path(data), Path(folder), n_seeds), say, 3, 1, "slices")
            figures |= {f"hippocampus_{name}": value for name, value in moved.items()}
        return figures


def _nobody(_: str) -> None:
    """Listen to nothing."""


def _compare(study: _Study, say: Callable[[str], None], many: int = 20, few: int = 5, units: str = "objects", *,
             quick: bool = False) -> dict[str, float]:
    """Shares of the gap, median over the seeds; `many` objects or other units in a minute, `few` in a third of it.

    The few are in one picture. The many are in several and, unless `quick`, once more in one, to tell what that is
    worth.
    """
    untouched, best = study.score(study.parent, study.new), study.score(study.ceiling, study.new)
    old = study.score(study.parent, study.old) if study.old else 0.0
    say(f"untouched {untouched:.3f}, trained on all {best:.3f}" + (f", on its old kind {old:.3f}" if study.old else ""))
    gap = max(best - untouched, 1e-9)
    n_pictures = min(many, _N_PICTURES)
    minute, third = study.pace.iterations(60, n_pictures), study.pace.iterations(20)
    thorough = f"thorough_gap_closed_{many}_{units}_60s"
    rivals: dict[str, Callable[[int], Model]] = {
        "instant_gap_closed": lambda index: _instant(study, index),
        thorough: lambda index: _thorough(study, index, many, minute, n_pictures),
        f"both_gap_closed_{many}_{units}_60s": lambda index: _both(study, index, many, n_pictures),
        f"thorough_gap_closed_{few}_{units}_20s": lambda index: _thorough(study, index, few, third),
        f"scratch_gap_closed_{many}_{units}_60s": lambda index: _scratch(study, index, many, minute, n_pictures),
        f"scratch_gap_closed_{few}_{units}_20s": lambda index: _scratch(study, index, few, third),
    }
    if not quick:
        rivals[f"{thorough}_one_picture"] = lambda index: _thorough(
            study, index, many, study.pace.iterations(60))
    figures: dict[str, float] = {}
    for name, learn in rivals.items():
        closed, lost = [], []
        for index in range(len(study.corrected)):
            model = learn(index)
            closed.append((study.score(model, study.new) - untouched) / gap)
            say(f"{name}, user {index + 1}: {closed[-1]:.2f}")
            if study.old and name == thorough:
                lost.append(100 * (old - study.score(model, study.old)))
                say(f"{lost[-1]:.1f} points forgotten")
        figures[name] = statistics.median(closed)
        if lost:
            figures["forgetting_points"] = statistics.median(lost)
    return figures | {"untouched_score": untouched, "trained_on_all_score": best, "iterations_a_minute": float(minute)}


def _corrections(model: Model, pictures: Sequence[Picture], amount: int, seed: int = 0) -> list[Example]:
    """What the user says, about as much of each picture: a part with some objects is right now, or the worst slices."""
    found = []
    for number, (image, truth) in enumerate(pictures):
        labels = segment(image, model).labels
        each = amount // len(pictures) + (number < amount % len(pictures))
        told = correct_region(truth, labels, each, seed) if model.kind == "instances" else (
            correct_slices(truth, labels, each),)
        found.append(Example(as_image(image), *told))
    return found


def _mean_dice(truth: NDArray[Any], found: NDArray[Any]) -> float:
    """Mean Dice over the classes of the truth."""
    return float(np.mean([2 * np.count_nonzero((truth == value) & (found == value))
                          / (np.count_nonzero(truth == value) + np.count_nonzero(found == value))
                          for value in np.unique(truth[truth > 0])]))


def _thorough(study: _Study, index: int, amount: int, iterations: int, n_pictures: int = 1) -> Model:
    tuned = finetune(study.parent, study.corrections(index, amount, n_pictures), None, iterations=iterations,
                     hold_out=0.0, policy=study.policy, seed=index)
    return tuned.save(study.folder / f"thorough-{amount}-in-{n_pictures}-{index}")


def _scratch(study: _Study, index: int, amount: int, iterations: int, n_pictures: int = 1) -> Model:
    """The same network, the same corrections, the same time; nothing learned before, so nothing to keep."""
    network = build(study.parent.network, **study.parent.network_config)
    parent = dataclasses.replace(study.parent, trained_on=(), taught=(), members=())
    blank = save_package(study.folder / "blank", parent, network.state_dict())
    policy = dataclasses.replace(study.policy or FREE, rate=3e-3)
    tuned = finetune(blank, study.corrections(index, amount, n_pictures), None, iterations=iterations, hold_out=0.0,
                     policy=policy, seed=index)
    return tuned.save(study.folder / "scratch")


def _instant(study: _Study, index: int, n_strokes: int = 5) -> Model:
    """Five corrections one by one; the layer is fitted after each, and the view decides which is next."""
    image, truth = study.corrected[index][0]
    session = InstantSession(study.parent, as_image(image))
    found = session.labels()
    corrections = np.zeros(truth.shape, np.int32)
    for _ in range(n_strokes):
        given = study.stroke(index, found, corrections)
        corrections = given[0]
        found = session.learn(*given)
    return session.save("study", study.folder / f"instant-{index}")


def _both(study: _Study, index: int, amount: int, n_pictures: int) -> Model:
    """The last layer fitted on top of the network that was fine-tuned before, on the first picture's corrections."""
    example = study.corrections(index, amount, n_pictures)[0]
    tuned = load_model(study.folder / f"thorough-{amount}-in-{n_pictures}-{index}")
    session = InstantSession(tuned, example.image)
    session.learn(example.corrections, example.labels)
    return session.save("study", study.folder / f"both-{index}")


def _instant_seconds(n_strokes: int) -> float:
    """From a stroke to new labels in a view of 512 x 512 pixels, bundled nuclei model; median."""
    image, truth = bright(0, _VIEW_PX, 120)
    session = InstantSession(load_model("nuclei-2d"), as_image(image))
    found = session.labels()
    corrections = np.zeros(truth.shape, np.int32)
    seconds = []
    for number in range(n_strokes):
        corrections, labels = correct_objects(truth, found, 1, number, corrections)
        start = time.perf_counter()
        found = session.learn(corrections, labels)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _drawn(folder: Path, n_seeds: int, iterations: int) -> _Study:
    """From bright discs to grey ones with a rim, a small network."""
    parent = train_small(folder / "parent", iterations)
    ceiling = train_small(folder / "ceiling", iterations, phase, start=parent)
    pictures = [[phase(seed + n_seeds * number, 192, 30) for number in range(_N_PICTURES)] for seed in range(n_seeds)]
    return _Study(parent, ceiling, pictures,
                  [phase(seed) for seed in range(100, 104)], [bright(seed) for seed in range(100, 104)],
                  _Pace(60 / iterations), folder, _QUICK)


def _sets(data: Path) -> tuple[Dataset, Dataset]:
    """The cells and the nuclei of a folder."""
    for name in ("cells2d", "nuclei2d"):
        if not (data / name).is_dir():
            raise DatasetError(f"{data} has no folder {name}; give a folder with cells2d and nuclei2d.")
    return open_dataset(data / "cells2d", True), open_dataset(data / "nuclei2d", True)


def _cells(cells: Dataset, nuclei: Dataset, folder: Path, n_seeds: int) -> _Study:
    """From fluorescence and tissue to phase contrast, at half the pictures' size."""
    parent = load_model("nuclei-2d")
    pictures = _pictures(cells, cells.train, 2)
    users = _users(pictures, n_seeds)
    pace = _measure(parent, users[0], 20, folder)
    ceiling = _taught_all(parent, pictures, pace.iterations(600), folder / "ceiling")
    return _Study(parent, ceiling, users, _pictures(cells, cells.validation, 2),
                  _pictures(nuclei, nuclei.validation[::4], 1), pace, folder)


def _fluorescence(nuclei: Dataset, folder: Path) -> Model:
    """A model that saw fluorescence alone; the bundled one was trained on all categories."""
    table = folder / "fluorescence.csv"
    rows = [f"{case.images[0].resolve()},{case.labels.resolve()}" for case in _of(nuclei, "fluorescence", nuclei.train)]
    table.write_text("\n".join(["image,labels", *rows]), encoding="utf-8")
    return train(table, "umamba-bot", folder / "fluorescence", minutes=_PARENT_MINUTES, instances=True)


def _nuclei(nuclei: Dataset, category: str, parent: Model, folder: Path, n_seeds: int) -> _Study:
    """From fluorescence to one of the data set's other categories, all of which the bundled model was trained on."""
    pictures, new = (_pictures(nuclei, _of(nuclei, category, part), 1) for part in (nuclei.train, nuclei.validation))
    known = _pictures(nuclei, _of(nuclei, "fluorescence", nuclei.validation)[::4], 1)
    users = _users(pictures, n_seeds)
    pace = _measure(parent, users[0], 20, folder)
    return _Study(parent, load_model("nuclei-2d"), users, new, known, pace, folder / category)


def _of(nuclei: Dataset, category: str, cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """Those of a category."""
    names = {file["id"] for file in nuclei.info.get("files", ()) if file.get("category") == category}
    return [case for case in cases if case.name in names]


def _hippocampus(data: Path, folder: Path, n_seeds: int) -> _Study:
    """The same volumes, but their two halves meet elsewhere; there is no old kind that could be forgotten."""
    volumes = open_dataset(data / "hippocampus3d")
    parent = load_model("hippocampus-mri")
    pictures, new = ([(image, _moved_border(truth)) for image, truth in _pictures(volumes, part, 1)]
                     for part in (volumes.train, volumes.validation))
    users = _users(pictures, n_seeds)
    pace, freely = (_measure(parent, users[0][:3], 3, folder, policy) for policy in (None, FREE))
    ceiling = _taught_all(parent, pictures, freely.iterations(240), folder / "hippocampus-ceiling")
    return _Study(parent, ceiling, users, new, [], pace, folder / "hippocampus")


def _users(pictures: Sequence[_T], n_users: int) -> list[list[_T]]:
    """Pictures for each user: the first ones evenly spread over all, the others drawn from the rest."""
    step = max(1, len(pictures) // n_users)
    firsts = [*range(0, len(pictures), step)][:n_users]
    rest = [int(index) for index in np.random.default_rng(0).permutation(len(pictures)) if index not in firsts]
    return [[pictures[index] for index in (first, *rest[number::n_users][:_N_PICTURES - 1])]
            for number, first in enumerate(firsts)]


def _taught_all(parent: Model, pictures: Sequence[Picture], iterations: int, folder: Path) -> Model:
    """What the parent becomes when every picture is right from edge to edge."""
    every = [Example(as_image(image), truth.astype(np.int32) + 1) for image, truth in pictures]
    return finetune(parent, every, None, iterations=iterations, hold_out=0.0, policy=FREE).save(folder)


def _moved_border(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Two halves of an object with the border between them moved along the object, towards the second."""
    centres = [np.argwhere(labels == value).mean(0) for value in (1, 2)]
    axis = int(np.abs(centres[1] - centres[0]).argmax())
    moved = np.roll(labels, _SHIFT_VOXELS * int(np.sign(centres[1] - centres[0])[axis]), axis)
    nearest = ndimage.distance_transform_edt(moved == 0, return_distances=False, return_indices=True)
    return np.where(labels > 0, moved[tuple(nearest)], 0).astype(np.int32)


def _pictures(data: Dataset, cases: Sequence[CaseFiles], step: int) -> list[Picture]:
    """Images and truth; grey pictures averaged over blocks of `step` pixels where that is more than 1."""
    found = []
    for case in cases:
        image, labels = case.read()
        shown: Image | NDArray[Any] = image
        labels = data.to_classes(labels)
        if step > 1:
            pixels = image.data
            height, width = (side // step * step for side in pixels.shape)
            pixels = pixels[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))
            labels = labels[:height:step, :width:step]
            shown = pixels.astype(np.float32)
        found.append((shown, labels))
    return found


def _measure(model: Model, pictures: Sequence[Picture], amount: int, folder: Path,
             policy: Policy | None = None) -> _Pace:
    """The pace of this machine; a first run, which compiles and allocates, is not counted."""
    examples = _corrections(model, pictures, amount)
    stamps: list[float] = []

    def note(update: Progress) -> None:
        if update.stage == "Training":
            stamps.append(time.monotonic())

    def seconds(given: Sequence[Example]) -> tuple[float, float]:
        """Of an iteration, and of all but the iterations."""
        stamps.clear()
        start = time.monotonic()
        tuned = finetune(model, given, None, iterations=_N_TIMED, hold_out=0.0, policy=policy, progress=note)
        tuned.save(folder / "pace")
        each = float(np.median(np.diff(stamps)[2:]))
        return each, max(0.0, time.monotonic() - start - _N_TIMED * each)

    seconds(examples[:1])
    (_, one), (each, several) = seconds(examples[:1]), seconds(examples)
    a_picture = max(0.0, (several - one) / max(1, len(examples) - 1))
    return _Pace(each, max(0.0, one - a_picture), a_picture)
