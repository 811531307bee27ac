"""Learning from all that was corrected, in a process of its own, while the user goes on; judged, then kept or not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from mambaseg import Progress, UserError, jobs, words
from mambaseg.learn import Project, apply_locks
from mambaseg.learn.lineage import Version, can_teach
from mambaseg.models import Model, copy_package, read_model, resolve
from napari_mambaseg._adapt import to_image
from napari_mambaseg._corrections import Corrector, Picture
from napari_mambaseg._layers import outcome_of, recolour
from napari_mambaseg._segmenter import Order
from napari_mambaseg._session import Check, Run, Session

__all__ = ["Learner", "Lesson", "new_labels"]

MINUTES = 2.0
_REGIONS = ("{title} finds regions that may overlap, which cannot be learned from corrections; choose a model of "
            "objects or of classes.")
_WORK = "learning"  # folder of the project with the state of an unfinished lesson
_UNFINISHED = "unfinished_lesson"  # setting of the project


@dataclass(frozen=True)
class Lesson:
    """What learning came to.

    Parameters
    ----------
    project, version : where the new model is; a candidate until it is kept
    judgement : before, after, better, sentence and forgetting, as `mambaseg.learn.judge.Judgement` has them
    notes : sentences about the examples
    picture : that the user looked at
    """

    project: Project
    version: Version
    judgement: dict[str, Any]
    notes: list[str]
    picture: Picture

    @property
    def is_better(self) -> bool:
        """Whether keeping it is the better choice."""
        return bool(self.judgement["better"])

    @property
    def lines(self) -> list[str]:
        """What came of it, as both windows say it; the verdict last."""
        return words.lesson_lines(self.judgement, self.picture.order.model.kind)


def new_labels(pictures: Sequence[Picture], model: Model) -> list[int]:
    """Labels that were drawn though the model has no class for them, ascending; for a thread where images are large."""
    if model.kind != "classes":
        return []
    known = [each.image.corrections() for each in pictures]
    largest = max(int(each.labels[each.locked].max(initial=0)) for each in known)
    return list(range(len(model.classes), largest + 1))


class Learner:
    """One lesson after the other.

    Signals: `began`, `progressed` (Progress), `learned` (Lesson), `ended` (a sentence, details); `compared` (bool) when
    there is something to hold B for, or no longer.
    """

    began = Signal()
    progressed = Signal(Progress)
    learned = Signal(object)
    ended = Signal(str, str)
    compared = Signal(bool)

    def __init__(self, viewer: Any, session: Session, corrector: Corrector) -> None:
        self._viewer = viewer
        self._warm = session
        self._own: Session | None = None  # a second process, so that segmenting goes on meanwhile; starts when needed
        self._corrector = corrector
        self._run: Run | None = None
        self._comparing: Run | None = None
        self._other: Any = None  # layer with what the new model finds
        self._is_stopping = False
        self._was: list[bool] | None = None
        self._names: list[str] = []
        self._picture: Picture | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a lesson goes on."""
        return self._run is not None

    @property
    def can_compare(self) -> bool:
        """Whether there are two results to look at in turn."""
        return self._other is not None and self._other in self._viewer.layers

    def start(self, picture: Picture, minutes: float | None = None, new_classes: Sequence[str] = ()) -> None:
        """Learn from all `pictures` that go with one.

        Parameters
        ----------
        minutes : how long at most; None: the usual time
        new_classes : names of the classes that the model is to get
        """
        if self.is_busy:
            return
        self._picture, self._names = picture, list(new_classes)
        self._is_stopping = False
        self.forget_comparison()
        for each in self.pictures(picture):
            self._corrector.flush(each)
        self._begin(MINUTES if minutes is None else minutes, is_end=False)

    def stop(self) -> None:
        """Learn no longer; the best model so far is judged."""
        if self._run is not None and not self._is_stopping:
            self._is_stopping = True
            self._run.cancel()

    def keep(self, lesson: Lesson) -> Path:
        """Work with the new model from now on; its package."""
        self.forget_comparison()
        return lesson.project.lineage.path(lesson.project.lineage.keep(lesson.version.number))

    def discard(self, lesson: Lesson) -> None:
        """Throw the new model away."""
        self.forget_comparison()
        lesson.project.lineage.discard(lesson.version.number)

    def close(self) -> None:
        """End the lesson; what it has reached is in the project's folder."""
        for run in (self._run, self._comparing):
            if run is not None:
                run.close()
        if self._own is not None:
            self._own.close()

    def pictures(self, picture: Picture) -> list[Picture]:
        """It and the others of its project that are open and can teach its model."""
        return [each for each in self._corrector.pictures if each.project is picture.project
                and can_teach(each.order.model, picture.order.model)]

    # --- the lesson ---

    def _begin(self, minutes: float, *, is_end: bool) -> None:
        picture = self._picture
        if picture is None:
            return
        pictures = self.pictures(picture)
        are_open = [each.image.identity.checksum for each in self._corrector.pictures]
        if self._own is None:
            self._own = Session()
        project = picture.project
        run = self._run = self._own.start(
            "finetune", lambda folder, check: self._request(picture, pictures, minutes, is_end, folder, check),
            lambda answer, folder: _add(picture, pictures, are_open, answer))
        run.progressed.connect(lambda update: self.progressed.emit(update))
        run.finished.connect(self._on_finished)
        run.failed.connect(self._on_failed)
        run.cancelled.connect(lambda: self._on_cancelled(project))
        if not is_end:
            self.began.emit()

    def _request(self, picture: Picture, pictures: list[Picture], minutes: float, is_end: bool, folder: Path,
                 check: Check) -> dict[str, Any]:
        """What to ask of the worker; for a thread."""
        model, project = picture.order.model, picture.project
        if model.kind == "regions":
            raise UserError(_REGIONS.format(title=model.title))
        examples: list[dict[str, str]] = []
        for number, each in enumerate(pictures):
            examples += _write_examples(each, folder, f"{number}_", check)
        if not examples:
            raise UserError(words.NOTHING_TO_LEARN)
        parent = project.lineage.start(read_model(resolve(picture.order.model_name)))
        stroke = project.journal.last_stroke()
        state = [parent.checksum, stroke.sequence if stroke else 0, self._names]
        resumes = is_end or project.settings.get(_UNFINISHED) == state
        project.save_settings(**{_UNFINISHED: state})
        work = project.folder / _WORK
        if not resumes:
            shutil.rmtree(work, ignore_errors=True)
        return {"model": str(project.lineage.path(parent)), "output": str(folder / "model"), "minutes": minutes,
                "examples": examples, "new_classes": self._names, "work": str(work), "resume": resumes}

    def _on_finished(self, lesson: Lesson) -> None:
        self._over()
        self.ended.emit("", "")
        self.learned.emit(lesson)
        self._compare(lesson)

    def _on_failed(self, sentence: str, details: str) -> None:
        self._over()
        self.ended.emit(sentence, details)

    def _on_cancelled(self, project: Project) -> None:
        self._over()
        if self._is_stopping and (project.folder / _WORK / "last.pt").is_file():
            self._begin(1e-4, is_end=True)  # goes on from where it stopped, sees that time is up, and judges
            return
        self.ended.emit("Stopped before anything was learned.", "")

    def _over(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()

    # --- looking at both ---

    def hold(self, is_held: bool) -> None:
        """Show what the new model finds in place of what there is, as long as the key is held."""
        picture = self._picture
        if not self.can_compare or picture is None:
            return
        if is_held and self._was is None:
            self._was = [picture.layer.visible, self._other.visible]
            picture.layer.visible, self._other.visible = False, True
        elif not is_held and self._was is not None:
            (picture.layer.visible, self._other.visible), self._was = self._was, None

    def forget_comparison(self) -> None:
        """Take away what the new model found."""
        self.hold(False)
        run, self._comparing = self._comparing, None
        if run is not None:
            run.close()
        other, self._other = self._other, None
        if other is not None and other in self._viewer.layers:
            self._viewer.layers.remove(other)
        self.compared.emit(False)

    def _compare(self, lesson: Lesson) -> None:
        """Have the new model segment the same part, unseen."""
        order, picture = lesson.picture.order, lesson.picture
        folder = lesson.project.lineage.path(lesson.version)
        asked = dataclasses.replace(order, model=read_model(folder), model_name=str(folder), replaces=None,
                                    with_probabilities=False)

        def finish(answer: dict[str, Any], where: Path) -> Any:
            found = outcome_of(answer, where, order.source, order.given).labels
            return apply_locks(found, picture.image.corrections())

        run = self._comparing = self._warm.start("segment", asked.write_request, finish)
        run.finished.connect(lambda labels: self._show_other(lesson, asked, labels))
        run.failed.connect(lambda sentence, details: self.forget_comparison())

    def _show_other(self, lesson: Lesson, order: Order, labels: Any) -> None:
        run, self._comparing = self._comparing, None
        if run is not None:
            run.close()
        layer = lesson.picture.layer
        if layer not in self._viewer.layers:
            return
        layers = self._viewer.layers
        active = layers.selection.active
        self._other = type(layer)(labels, name=f"{order.source.name}, after learning", opacity=layer.opacity,
                                  visible=False, colormap=layer.colormap, **order.source.geometry)
        self._other.contour = layer.contour
        self._other.editable = False
        if order.model.kind == "instances":
            recolour(self._other)
        layers.insert(layers.index(layer) + 1, self._other)
        layers.selection.active = active
        self.compared.emit(True)


def _write_examples(picture: Picture, folder: Path, prefix: str, check: Check) -> list[dict[str, str]]:
    """What was corrected in one image, a time point at a time, in a job's folder."""
    reading, shape = picture.reading, picture.image.view.shape
    n_time = len(shape) - len(reading.spatial)
    corrections = picture.image.corrections()
    examples = corrections.to_examples()
    found = []
    for frame in np.ndindex(*shape[:n_time]):
        if not examples[frame].any():
            continue
        part = (*(slice(at, at + 1) for at in frame), *(slice(0, size) for size in shape[n_time:]))
        image = to_image(picture.order.source, part)
        stem, axes = prefix + "_".join(map(str, frame)), "ZYX"[-image.ndim:]
        found.append({
            "image": jobs.write_image(folder, image, f"{stem}image", lambda _: check()),
            "corrections": jobs.write_image(folder, image.with_data(examples[frame], axes), f"{stem}corrections"),
            "labels": jobs.write_image(folder, image.with_data(corrections.labels[frame], axes), f"{stem}labels")})
    return found


def _add(picture: Picture, pictures: list[Picture], are_open: list[str], answer: dict[str, Any]) -> Lesson:
    """Put the new model into the lineage, as a candidate, and say what did not teach it; for a thread."""
    project = picture.project
    learned_from, made = project.learned_from([each.image for each in pictures]), read_model(Path(answer["model"]))
    version = project.lineage.add(lambda folder: copy_package(made, folder), learned_from, answer["judgement"])
    project.save_settings(**{_UNFINISHED: None})
    shutil.rmtree(project.folder / _WORK, ignore_errors=True)
    notes = [*answer["notes"], *words.left_out(project.n_corrected_besides(are_open), "picture", "open")]
    return Lesson(project, version, answer["judgement"], notes, picture)
