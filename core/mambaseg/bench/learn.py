"""How much of the way to a model trained on everything a few corrections go, and how fast.

A simulated user corrects pictures of a kind that the model never saw. The gap is the score of a model trained on all
pictures of that kind less the untouched model's, F1 at IoU 0.5 on held-out pictures; 1 is closed, 0 is nothing gained.
"Seconds" are iterations of this machine: how many a second it does is measured first, so that a busy moment in the
middle of a study does not shorten one of the rivals' training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import DatasetError
from mambaseg.bench.pictures import bright, phase
from mambaseg.bench.small import train_small
from mambaseg.image import Image
from mambaseg.learn.examples import Example
from mambaseg.learn.finetune import finetune
from mambaseg.learn.head import InstantSession
from mambaseg.learn.objective import Policy
from mambaseg.learn.simulate import correct_objects, correct_region
from mambaseg.metrics import f1
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.nets.registry import build
from mambaseg.segmentation import segment
from mambaseg.segmentation.run import as_image
from mambaseg.train.dataset import Dataset, open_dataset

__all__ = ["run"]

Picture = tuple[Image | NDArray[Any], NDArray[Any]]  # an array is grey, (y, x); object numbers

_VIEW_PX = 512
_SCRATCH = Policy(rate=3e-3, rehearsal_share=0.0)
_QUICK = Policy(rate=3e-3, rehearse=2.0, rehearsal_share=0.25, patch_size=64)


@dataclass(frozen=True)
class _Study:
    """What is compared.

    Parameters
    ----------
    parent, ceiling : the untouched model, and one trained on all pictures of the new kind
    corrected : pictures that the user corrects, one a seed
    new, old : held-out pictures of the new kind, and of the parent's own
    per_minute : iterations that stand for a minute
    policy : of fine-tuning; None: the default
    """

    parent: Model
    ceiling: Model
    corrected: Sequence[Picture]
    new: Sequence[Picture]
    old: Sequence[Picture]
    per_minute: int
    folder: Path
    policy: Policy | None = None


def run(quick: bool = False, data: Path | None = None, n_seeds: int = 5,
        say: Callable[[str], None] | None = None) -> dict[str, float]:
    """Figures of learning from corrections.

    Parameters
    ----------
    quick : one seed, a small model, drawn pictures; below 45 s on two cores
    data : folder with ``cells2d`` and ``nuclei2d``: from the bundled nuclei model to phase contrast. None: drawn
        pictures, from bright discs to grey ones with a rim
    n_seeds : pictures that are corrected, one after the other; medians over them
    say : called with a line for each thing measured; None: nobody listens

    Raises
    ------
    DatasetError : `data` lacks one of the sets
    """
    with tempfile.TemporaryDirectory(prefix="mambaseg-") as folder:
        figures = {"instant_seconds_median": _instant_seconds(3 if quick else 9)}
        if data is not None:
            study = _real(Path(data), Path(folder), n_seeds)
        else:
            study = _drawn(Path(folder), 1 if quick else n_seeds, 40 if quick else 150)
        return figures | _compare(study, say or _nobody)


def _nobody(_: str) -> None:
    """Listen to nothing."""


def _compare(study: _Study, say: Callable[[str], None]) -> dict[str, float]:
    """Shares of the gap, median over the seeds."""
    untouched, best = _score(study.parent, study.new), _score(study.ceiling, study.new)
    old = _score(study.parent, study.old)
    say(f"untouched {untouched:.3f}, trained on all {best:.3f}, on its old kind {old:.3f}")
    gap = max(best - untouched, 1e-9)
    rivals: dict[str, Callable[[int], Model]] = {
        "instant_gap_closed": lambda index: _instant(study, index),
        "thorough_gap_closed_20_objects_60s": lambda index: _thorough(study, index, 20, study.per_minute),
        "both_gap_closed_20_objects_60s": lambda index: _both(study, index),
        "thorough_gap_closed_5_objects_20s": lambda index: _thorough(study, index, 5, study.per_minute // 3),
        "scratch_gap_closed_20_objects_60s": lambda index: _scratch(study, index, 20, study.per_minute),
        "scratch_gap_closed_5_objects_20s": lambda index: _scratch(study, index, 5, study.per_minute // 3),
    }
    figures: dict[str, float] = {}
    for name, learn in rivals.items():
        closed, lost = [], []
        for index in range(len(study.corrected)):
            model = learn(index)
            closed.append((_score(model, study.new) - untouched) / gap)
            lost.append(100 * (old - _score(model, study.old)))
            say(f"{name}, picture {index + 1}: {closed[-1]:.2f}, {lost[-1]:.1f} points forgotten")
        figures[name] = statistics.median(closed)
        if name.startswith("thorough_gap_closed_20"):
            figures["forgetting_points"] = statistics.median(lost)
    return figures | {"untouched_f1": untouched, "trained_on_all_f1": best,
                      "iterations_a_minute": float(study.per_minute)}


def _score(model: Model, pictures: Sequence[Picture]) -> float:
    """Mean F1 at IoU 0.5."""
    return float(np.mean([f1(labels, segment(image, model).labels) for image, labels in pictures]))


def _corrections(study: _Study, index: int, n_objects: int) -> Example:
    """What the user says about a picture: one part of it put right and confirmed."""
    image, truth = study.corrected[index]
    corrections, labels = correct_region(truth, segment(image, study.parent).labels, n_objects, index)
    return Example(as_image(image), corrections, labels)


def _thorough(study: _Study, index: int, n_objects: int, iterations: int) -> Model:
    tuned = finetune(study.parent, [_corrections(study, index, n_objects)], None, iterations=max(1, iterations),
                     hold_out=0.0, policy=study.policy, seed=index)
    return tuned.save(study.folder / f"thorough-{n_objects}-{index}")


def _scratch(study: _Study, index: int, n_objects: int, iterations: int) -> Model:
    """The same network, the same corrections, the same time; nothing learned before."""
    network = build(study.parent.network, **study.parent.network_config)
    blank = save_package(study.folder / "blank", study.parent, network.state_dict())
    policy = Policy(rate=_SCRATCH.rate, rehearsal_share=0.0, patch_size=(study.policy or Policy()).patch_size)
    tuned = finetune(blank, [_corrections(study, index, n_objects)], None, iterations=max(1, iterations), hold_out=0.0,
                     policy=policy, seed=index)
    return tuned.save(study.folder / "scratch")


def _instant(study: _Study, index: int, n_strokes: int = 5) -> Model:
    """Five objects corrected one by one; the layer is fitted after each, and the view decides which is next."""
    image, truth = study.corrected[index]
    session = InstantSession(study.parent, as_image(image))
    found = session.labels()
    corrections = np.zeros(truth.shape, np.int32)
    for _ in range(n_strokes):
        corrections, labels = correct_objects(truth, found, 1, index, corrections)
        found = session.learn(corrections, labels)
    return session.save("study", study.folder / f"instant-{index}")


def _both(study: _Study, index: int) -> Model:
    """The last layer fitted on top of the network that was fine-tuned before, on the same corrections."""
    example = _corrections(study, index, 20)
    session = InstantSession(load_model(study.folder / f"thorough-20-{index}"), example.image)
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
    return _Study(parent, ceiling, [phase(seed, 192, 30) for seed in range(n_seeds)],
                  [phase(seed) for seed in range(100, 104)], [bright(seed) for seed in range(100, 104)],
                  iterations, folder, _QUICK)


def _real(data: Path, folder: Path, n_seeds: int) -> _Study:
    """From fluorescence and tissue to phase contrast, at half the pictures' size."""
    for name in ("cells2d", "nuclei2d"):
        if not (data / name).is_dir():
            raise DatasetError(f"{data} has no folder {name}; give a folder with cells2d and nuclei2d.")
    cells, nuclei = (open_dataset(data / name, True) for name in ("cells2d", "nuclei2d"))
    parent = load_model("nuclei-2d")
    train = _pictures(cells, "train", 2)
    per_minute = _iterations_a_minute(parent, train[0])
    every = [Example(as_image(image), truth.astype(np.int32) + 1) for image, truth in train]
    ceiling = finetune(parent, every, None, iterations=10 * per_minute, hold_out=0.0,
                       policy=Policy(rehearsal_share=0.0)).save(folder / "ceiling")
    return _Study(parent, ceiling, train[:n_seeds], _pictures(cells, "validation", 2),
                  _pictures(nuclei, "validation", 1)[::4], per_minute, folder)


def _pictures(data: Dataset, part: str, step: int) -> list[Picture]:
    """Images and truth; grey pictures averaged over blocks of `step` pixels where that is more than 1."""
    found = []
    for case in getattr(data, part):
        image, labels = case.read()
        shown: Image | NDArray[Any] = image
        if step > 1:
            pixels = image.data
            height, width = (side // step * step for side in pixels.shape)
            pixels = pixels[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))
            labels = labels[:height:step, :width:step]
            shown = pixels.astype(np.float32)
        found.append((shown, labels))
    return found


def _iterations_a_minute(model: Model, picture: Picture) -> int:
    """What this machine does; the first iterations, which compile and allocate, are not counted."""
    image, truth = picture
    stamps: list[float] = []
    finetune(model, [(image, truth.astype(np.int32) + 1)], None, iterations=8, hold_out=0.0,
             progress=lambda update: stamps.append(time.monotonic()) if update.stage == "Training" else None)
    return max(1, round(60 / float(np.median(np.diff(stamps)[2:]))))
