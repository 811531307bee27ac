"""Learning from the corrections in a result: at once, and thoroughly; the core does it, in the child process."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import UserError, jobs
from mambaseg.learn.lineage import Version
from mambaseg.models import read_model, resolve
from mambaseg.progress import ProgressCallback
from MambaSegLib._adapt import Box
from MambaSegLib._corrections import Correcting
from MambaSegLib._runs import Listener, Run
from MambaSegLib._segments import MODEL, relabel
from MambaSegLib.Logic import MambaSegLogic

__all__ = ["Adapting", "Learning", "Lesson"]

_NOTHING = "Nothing is corrected or confirmed yet; draw in the result or press “This region is right”, then learn."
_WORK = "learning"  # folder of the project with the state of an unfinished lesson
_AT_ONCE_MINUTES = 1e-4  # a lesson that is taken up again sees that its time is up, and judges
_MOST_VOXELS = 2**22  # larger volumes are adapted around the stroke only
_REACH = 2  # of the network's patch, around the stroke


class Lesson:
    """What thorough learning came to.

    Parameters
    ----------
    kind : of the model
    version : of the new model, in the project's lineage; a candidate until it is kept
    judgement : before, after, better and sentence, as `mambaseg.learn.judge.Judgement` has them
    notes : sentences about the examples
    """

    def __init__(self, kind: str, version: Version, judgement: dict[str, Any], notes: list[str]) -> None:
        self.kind = kind
        self.version = version
        self.judgement = judgement
        self.notes = notes

    @property
    def is_better(self) -> bool:
        """Whether keeping it is the better choice."""
        return bool(self.judgement["better"])

    @property
    def line(self) -> str:
        """What is shown: "Before 0.71   After 0.86" and the verdict."""
        before, after = self.judgement["before"], self.judgement["after"]
        lines = [self.judgement["sentence"], *self.notes]
        if before["mean"] is not None:
            n, thing = int(after["n_units"]), "object" if self.kind == "instances" else "part"
            lines.insert(0, f"Before {before['mean']:.2f}   After {after['mean']:.2f}   on {n} {thing}{'s' * (n != 1)} "
                            "kept aside")
        return "\n".join(lines)


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
        """Begin; `Listener.finished` gets a `Lesson`.

        Parameters
        ----------
        is_end : judge what a cancelled lesson reached, instead of learning anew
        options : minutes, iterations and other keyword arguments of `mambaseg.finetune`

        Raises
        ------
        UserError : nothing to learn from, or the model has gone
        """
        correcting = self._correcting
        correcting.record()
        corrections = correcting.image.corrections()
        if corrections.is_empty:
            raise UserError(_NOTHING)
        lineage = correcting.project.lineage
        current = lineage.start(read_model(resolve(correcting.model_name)))
        learned_from = correcting.project.learned_from([correcting.image])
        if is_end:
            options = {"minutes": _AT_ONCE_MINUTES}
        else:
            shutil.rmtree(self._work, ignore_errors=True)

        def prepare(folder: Path, check: ProgressCallback) -> dict[str, Any]:
            return {"model": str(lineage.path(current)), "output": str(folder / "model"), **options,
                    "work": str(self._work), "resume": is_end,
                    "examples": [_write(folder, correcting, corrections.to_examples(), corrections.labels, check)]}

        def finish(answer: dict[str, Any], _: Path) -> Lesson:
            version = lineage.add(lambda folder: shutil.copytree(answer["model"], folder), learned_from,
                                  answer["judgement"])
            return Lesson(correcting.model.kind, version, answer["judgement"], answer["notes"])

        return Run(self._logic.worker, "finetune", prepare, finish, listener)

    def keep(self, lesson: Lesson) -> str:
        """Work with the new model from now on; what it is found by."""
        lineage = self._correcting.project.lineage
        return self._use(str(lineage.path(lineage.keep(lesson.version.number))))

    def go_back(self, lesson: Lesson) -> str:
        """Throw the new model away; what the one before is found by."""
        lineage = self._correcting.project.lineage
        return self._use(str(lineage.path(lineage.discard(lesson.version.number))))

    @property
    def line(self) -> str:
        """The models so far: "Hippocampus (MRI) > mine, 20 Nov"; empty before the first lesson."""
        return self._correcting.project.lineage.line()

    def _use(self, model_name: str) -> str:
        self._correcting.model_name = model_name
        self._correcting.node.SetAttribute(MODEL, model_name)
        return model_name


class Adapting:
    """Learning from each stroke at once; what lies around it changes a moment later."""

    def __init__(self, logic: MambaSegLogic, correcting: Correcting) -> None:
        self._logic = logic
        self._correcting = correcting
        self._box: Box | None = None  # what the child looks at

    def start(self, listener: Listener) -> Run | None:
        """Learn from what is corrected now; None where that is not possible at once. The result is changed at the end.

        `Listener.finished` gets whether anything changed.
        """
        correcting = self._correcting
        corrections = correcting.image.corrections()
        box = None if corrections.is_empty else self._view(corrections.locked)
        if box is None or correcting.model.kind == "regions":
            return None
        is_new, self._box = box != self._box, box

        def prepare(folder: Path, check: ProgressCallback) -> dict[str, Any]:
            written = _write(folder, correcting, corrections.to_examples(), corrections.labels, check, image=is_new)
            view = {"roi": [list(side) for side in box]} if is_new else {}
            return {"model": correcting.model_name, "session": str(correcting.project.folder), **view, **written}

        return Run(self._logic.worker, "adapt", prepare,
                   lambda answer, folder: self._show(np.load(folder / answer["labels"]), box), listener)

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

    def _show(self, found: NDArray[Any], box: Box) -> bool:
        """Lay what was learned around the corrections, which stay as they are."""
        correcting = self._correcting
        correcting.record()  # what was drawn meanwhile is a fact, too
        before = correcting.image.labels()
        labels = before.copy()
        labels[tuple(slice(*side) for side in box)] = found
        shown = correcting.image.show_prediction(labels)
        if np.array_equal(shown, before):
            return False
        relabel(correcting.node, correcting.source, shown, correcting.model)
        return True


def _write(folder: Path, correcting: Correcting, examples: NDArray[np.int32], labels: NDArray[Any],
           check: ProgressCallback, *, image: bool = True) -> dict[str, Any]:
    """An example in a job's folder; the names of its files."""
    volume = correcting.source.image
    names = {"corrections": jobs.write_image(folder, volume.with_data(examples, "ZYX"), "corrections", check),
             "labels": jobs.write_image(folder, volume.with_data(labels, "ZYX"), "labels", check)}
    return names | ({"image": jobs.write_image(folder, volume, progress=check)} if image else {})
