"""Learning from the corrections in results: at once, and thoroughly; the core does it, in the child process."""

from __future__ import annotations

import functools
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import Cancelled, UserError, jobs, words
from mambaseg.learn import ProjectImage, apply_locks
from mambaseg.learn.lineage import Version, can_teach
from mambaseg.models import Model, copy_package, read_model, resolve
from mambaseg.progress import ProgressCallback
from MambaSegLib._adapt import Box, Source, read_volume
from MambaSegLib._corrections import Correcting, same_voxels
from MambaSegLib._results import results
from MambaSegLib._runs import Listener, Run
from MambaSegLib._segments import MODEL, RECORD, Painted, remove_node, show_labels
from MambaSegLib.Logic import MambaSegLogic, Order

__all__ = ["Adapting", "Comparing", "Learning", "Lesson"]

_WORK = "learning"  # folder of the project with the state of an unfinished lesson
_AT_ONCE_MINUTES = 1e-4  # a lesson that is taken up again sees that its time is up, and judges
_MOST_VOXELS = 2**22  # larger volumes are adapted around the stroke only
_REACH = 2  # of the network's patch, around the stroke


@dataclass(frozen=True)
class Lesson:
    """What thorough learning came to.

    Parameters
    ----------
    kind : of the model
    version : of the new model, in the project's lineage; a candidate until it is kept
    judgement : before, after, better and sentence, as `mambaseg.learn.judge.Judgement` has them
    notes : sentences about the examples
    """

    kind: str
    version: Version
    judgement: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def is_better(self) -> bool:
        """Whether keeping it is the better choice."""
        return bool(self.judgement["better"])

    @property
    def line(self) -> str:
        """What is shown: "Before 0.71   After 0.86", what it forgot, and the verdict."""
        return "\n".join((*words.lesson_lines(self.judgement, self.kind), *self.notes))


class Learning:
    """Thorough learning, in the background; what comes of it is kept or thrown away."""

    def __init__(self, logic: MambaSegLogic, correcting: Correcting) -> None:
        self._logic = logic
        self._correcting = correcting

    @property
    def is_stopped_half_way(self) -> bool:
        """Whether a lesson was cancelled after it had learned something."""
        return (self._work / "last.pt").is_file()

    @property
    def _work(self) -> Path:
        return self._correcting.project.folder / _WORK

    def start(self, listener: Listener, *, is_end: bool = False, **options: Any) -> Run:
        """Begin; `Listener.finished` gets a `Lesson`. All volumes of the project that are in the scene teach it.

        Parameters
        ----------
        is_end : judge what a cancelled lesson reached, instead of learning anew
        options : minutes, iterations and other keyword arguments of `mambaseg.finetune`
        """
        correcting = self._correcting
        drawn = correcting.drawn()
        others = [(result.model_name, read_volume(result.volume, result.frame), result.checksum)
                  for result in results() if result.volume is not None and result.checksum != _checksum(correcting)
                  and result.folder == str(correcting.project.folder)]
        taught: list[ProjectImage] = []
        notes: list[str] = []

        def prepare(folder: Path, check: ProgressCallback) -> dict[str, Any]:
            correcting.record(drawn)
            examples = []
            for number, (source, image) in enumerate(_taught(correcting, others)):
                corrections = image.corrections()
                taught.append(image)
                if not corrections.is_empty:
                    examples.append(_write(folder, source, corrections.to_examples(), corrections.labels, check,
                                           prefix=f"{number}_"))
            if not examples:
                raise UserError(words.NOTHING_TO_LEARN)
            n_absent = correcting.project.n_corrected_besides([image.identity.checksum for image in taught])
            notes.extend(words.left_out(n_absent, "volume", "in the scene"))
            lineage = correcting.project.lineage
            current = lineage.start(read_model(resolve(correcting.model_name)))
            if not is_end:
                shutil.rmtree(self._work, ignore_errors=True)
            given = {"minutes": _AT_ONCE_MINUTES} if is_end else options
            return {"model": str(lineage.path(current)), "output": str(folder / "model"), **given,
                    "work": str(self._work), "resume": is_end, "examples": examples}

        def collect(answer: dict[str, Any], _: Path) -> Lesson:
            project, made = correcting.project, read_model(Path(answer["model"]))
            version = project.lineage.add(lambda folder: copy_package(made, folder), project.learned_from(taught),
                                          answer["judgement"])
            return Lesson(correcting.model.kind, version, answer["judgement"], (*answer["notes"], *notes))

        return Run(self._logic.worker, "finetune", prepare, collect, listener)

    def keep(self, lesson: Lesson) -> str:
        """Work with the new model from now on; what it is found by."""
        lineage = self._correcting.project.lineage
        return self._use(lineage.keep(lesson.version.number))

    def throw_away(self, lesson: Lesson) -> str:
        """Throw the new model away; what the one before is found by."""
        lineage = self._correcting.project.lineage
        return self._use(lineage.discard(lesson.version.number))

    def go_back(self, number: int) -> str:
        """Work with any model of the project again; what it is found by."""
        return self._use(self._correcting.project.lineage.go_back(number))

    def path(self, lesson: Lesson) -> str:
        """What the new model is found by."""
        return str(self._correcting.project.lineage.path(lesson.version))

    def _use(self, version: Version) -> str:
        model_name = str(self._correcting.project.lineage.path(version))
        self._correcting.use_model(model_name)
        return model_name


class Comparing:
    """What another model finds in the same part of the volume, hidden until it is held against what is shown."""

    def __init__(self, logic: MambaSegLogic, correcting: Correcting) -> None:
        self._logic = logic
        self._correcting = correcting
        self._other: Any = None
        self._was: bool | None = None
        self.found: NDArray[Any] | None = None

    @property
    def can_compare(self) -> bool:
        """Whether there are two results to look at in turn."""
        return self._other is not None and self._other.GetScene() is not None and not self._correcting.result.is_gone

    def start(self, model_name: str, listener: Listener) -> Run:
        """Have the model segment what was segmented, unseen; `Listener.finished` is told when it can be compared."""
        correcting, model = self._correcting, read_model(resolve(model_name))
        order = Order(correcting.source, model, model_name, _box_of(correcting))

        def collect(answer: dict[str, Any], folder: Path) -> tuple[NDArray[Any], Painted]:
            found = jobs.read_result(folder, answer).labels
            return found, Painted.of(apply_locks(found, correcting.image.corrections()), model)

        return Run(self._logic.worker, "segment", lambda *given: order.write_request(*given) | {"preview": False},
                   collect, listener, order.reason_to_stop, functools.partial(self._show, model))

    def hold(self, is_held: bool) -> None:
        """Show what the other model found in place of what there is, as long as a key is held."""
        if not self.can_compare:
            return
        mine, other = self._correcting.node.GetDisplayNode(), self._other.GetDisplayNode()
        if is_held and self._was is None:
            self._was = bool(mine.GetVisibility())
            mine.SetVisibility(False)
            other.SetVisibility(True)
        elif not is_held and self._was is not None:
            mine.SetVisibility(self._was)
            other.SetVisibility(False)
            self._was = None

    def forget(self) -> None:
        """Take away what the other model found."""
        self.hold(False)
        if self._other is not None and self._other.GetScene() is not None:
            remove_node(self._other)
        self._other = self.found = None

    def _show(self, model: Model, collected: tuple[NDArray[Any], Painted]) -> None:
        self.found, painted = collected
        source = self._correcting.source
        node = self._other = show_labels(source, painted, {}, model, "")
        node.RemoveAttribute(MODEL)  # it is no result to go on with
        node.SetName(f"{source.name}, after learning")
        node.GetDisplayNode().SetVisibility(False)
        for each in (node, node.GetDisplayNode()):
            each.SetSaveWithScene(False)


class Adapting:
    """Learning from each stroke at once; what lies around it changes a moment later."""

    def __init__(self, logic: MambaSegLogic, correcting: Correcting) -> None:
        self._logic = logic
        self._correcting = correcting
        self._box: Box | None = None  # what the child looks at

    def start(self, listener: Listener) -> Run:
        """Learn from what is kept now; `Listener.finished` gets (labels, box) to lay around the corrections.

        Where nothing can be learned at once, `Listener.cancelled` is told.
        """
        correcting = self._correcting

        def prepare(folder: Path, check: ProgressCallback) -> dict[str, Any]:
            corrections = correcting.image.corrections()
            box = None if corrections.is_empty else self._view(corrections.locked)
            if box is None or correcting.model.kind == "regions":
                raise Cancelled
            is_new, self._box = box != self._box, box
            written = _write(folder, correcting.source, corrections.to_examples(), corrections.labels, check,
                             has_image=is_new)
            view = {"roi": [list(side) for side in box]} if is_new else {}
            return {"model": correcting.model_name, "session": str(correcting.project.folder), **view, **written}

        return Run(self._logic.worker, "adapt", prepare,
                   lambda answer, folder: (np.load(folder / answer["labels"]), self._box), listener)

    def forget_view(self) -> None:
        """After a failure: the child may know nothing of the view."""
        self._box = None

    def _view(self, known: NDArray[np.bool_]) -> Box | None:
        """All of a small volume; of a large one what lies around the corrections, where that can be cut out."""
        shape = self._correcting.source.shape
        if math.prod(shape) <= _MOST_VOXELS:
            return tuple((0, size) for size in shape)
        if self._correcting.model.kind == "instances":
            return None  # objects that cross the view's border would be cut in two
        patch = self._correcting.model.plan.patch_size
        reach = (*(1,) * (3 - len(patch)), *(_REACH * size for size in patch))
        middle = [int(np.flatnonzero(known.any(tuple({0, 1, 2} - {axis}))).mean()) for axis in range(3)]
        return tuple((max(0, at - side // 2), min(size, at + side // 2 + 1))
                     for at, side, size in zip(middle, reach, shape, strict=True))


def _checksum(correcting: Correcting) -> str:
    return str(correcting.image.identity.checksum)


def _taught(correcting: Correcting, others: list[tuple[str, Source, str]]) -> list[tuple[Source, ProjectImage]]:
    """The volume at work, and others of the project whose voxels and classes are those that were corrected."""
    found = [(correcting.source, correcting.image)]
    known = {identity.checksum: identity for identity in correcting.project.images()}
    for model_name, source, checksum in others:
        same = same_voxels(source, checksum) if checksum in known and _fits(model_name, correcting.model) else None
        if same is not None and all(image.identity.checksum != checksum for _, image in found):
            found.append((same[0], correcting.project.image(known[checksum], correcting.model.kind)))
    return found


def _fits(model_name: str, model: Model) -> bool:
    """Whether what was corrected in another model's result can teach this one."""
    try:
        return can_teach(read_model(resolve(model_name)), model)
    except UserError:  # it has gone; its corrections say what its classes were no longer
        return False


def _box_of(correcting: Correcting) -> Box | None:
    """The part of the volume that was segmented; None: all of it."""
    record = json.loads(correcting.result.keeper.GetAttribute(RECORD) or "{}")
    roi = record.get("settings", {}).get("roi")
    return None if roi is None else tuple((int(start), int(stop)) for start, stop in roi)


def _write(folder: Path, source: Source, examples: NDArray[np.int32], labels: NDArray[Any], check: ProgressCallback, *,
           prefix: str = "", has_image: bool = True) -> dict[str, Any]:
    """An example in a job's folder; the names of its files."""
    def write(image: Any, name: str) -> str:
        return jobs.write_image(folder, image, prefix + name, check)

    volume = source.image
    names = {"corrections": write(volume.with_data(examples, "ZYX"), "corrections"),
             "labels": write(volume.with_data(labels, "ZYX"), "labels")}
    return names | ({"image": write(volume, "image")} if has_image else {})
