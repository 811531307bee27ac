"""The card Segment: image, model, where, what it will take, and the button."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

import slicer
from mambaseg import Progress, UserError, words
from mambaseg.learn.project import data_folder
from mambaseg.models import Model, bundled, listed, read_model, resolve
from MambaSegLib._adapt import read_volume
from MambaSegLib._details import Details
from MambaSegLib._modality import mismatch
from MambaSegLib._results import show_frames
from MambaSegLib._runs import Listener, Run
from MambaSegLib._sequences import sequence_of
from MambaSegLib._where import red_slice, slice_views
from MambaSegLib.Logic import MambaSegLogic, Order, Outcome

__all__ = ["SegmentCard"]

_FIRST = "hippocampus-mri"
_SAMPLE = Path(__file__).parents[1] / "Resources/Samples/brain_block.nii.gz"
_FROM_FOLDER = "From a folder…"
_RECENT = "MambaSeg/RecentModels"
_MOST_RECENT = 8
_PLACES = ("whole", "view", "region", "slice")
_SETTLE_MS = 300  # an estimate is asked for once the choices rest


class SegmentCard:
    """Reads the controls, starts orders one after the other, and shows how far they are.

    Parameters
    ----------
    ui : controls by name
    logic : does the work
    track : takes a run to be polled
    on_result : gets each `Outcome`, and how many orders still wait
    on_frames : gets the node that shows the results of a sequence in turn, and the outcomes
    on_image : called when another volume is looked at
    """

    def __init__(self, ui: Any, logic: MambaSegLogic, track: Callable[[Run], None],
                 on_result: Callable[[Outcome, int], None], on_frames: Callable[[Any, list[Outcome]], None],
                 on_image: Callable[[Any], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._track = track
        self._on_result = on_result
        self._on_frames = on_frames
        self._on_image = on_image
        self._parameters: Any = None
        self._models: dict[str, Model] = {}  # by what they are found by
        self._waiting: list[Order] = []
        self._frames: list[Outcome] = []  # results of a sequence so far
        self._run: Run | None = None
        self._order: Order | None = None
        self._question: Run | None = None
        self._details = Details(ui.details, ui.message)
        self._soon = qt.QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SETTLE_MS)
        self._soon.connect("timeout()", self.estimate)
        ui.run.connect("clicked(bool)", self.run)
        ui.cancel.connect("clicked(bool)", self.cancel)
        ui.model.connect("currentIndexChanged(int)", self._on_model)
        ui.model.connect("activated(int)", self._on_activated)
        ui.about_model.connect("toggled(bool)", ui.model_card.setVisible)
        ui.more.connect("toggled(bool)", ui.options.setVisible)
        ui.open_sample.connect("clicked(bool)", self.open_sample)
        for name in ("image", "region", "mask"):
            getattr(ui, name).connect("currentNodeChanged(vtkMRMLNode*)", self.look)
        ui.image.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: on_image(ui.image.currentNode()))
        for name in (*(f"where_{place}" for place in _PLACES), "mirror"):
            getattr(ui, name).connect("toggled(bool)", self._on_choice)
        ui.model_card.setVisible(False)
        ui.options.setVisible(False)
        self.fill_models(_FIRST)
        self.show_idle()

    @property
    def is_busy(self) -> bool:
        """Whether an order is being carried out."""
        return self._run is not None

    @property
    def model_name(self) -> str:
        """What the chosen model is found by."""
        names, index = list(self._models), self._ui.model.currentIndex
        return names[index] if 0 <= index < len(names) else _FIRST

    def set_parameters(self, parameters: Any) -> None:
        """Follow another scene's choices; None while a scene closes."""
        self._parameters = parameters
        if parameters is None:
            return
        self.fill_models(parameters.model or self.model_name)
        getattr(self._ui, f"where_{parameters.where}").setChecked(True)
        self.look()

    def fill_models(self, wanted: str) -> None:
        """List the models that come along and those used lately; choose `wanted` where it can be read."""
        self._models = listed([*bundled(), wanted, *_recent()])
        box = self._ui.model
        box.blockSignals(True)
        box.clear()
        box.addItems([*words.model_titles(list(self._models.values())), _FROM_FOLDER])
        box.setCurrentIndex(list(self._models).index(wanted) if wanted in self._models else 0)
        box.blockSignals(False)
        self._on_model(box.currentIndex)

    def choose_model(self, name: str) -> None:
        """Choose a model by name or folder, and remember it.

        Raises
        ------
        UserError : it is not there, or no model
        """
        read_model(resolve(name))
        if name not in bundled():
            qt.QSettings().setValue(_RECENT, "\n".join([name, *(each for each in _recent() if each != name)]
                                                       [:_MOST_RECENT]))
        self.fill_models(name)

    def look(self, *_: object) -> None:
        """Say how the chosen image is read, offer what suits it, and ask what it will take."""
        ui = self._ui
        node = ui.image.currentNode()
        for control in (ui.hint, ui.open_sample):
            control.setVisible(node is None)
        ui.read_as.setText(_reading(node))
        ui.unsuited.setText(mismatch(node, self._models.get(self.model_name)))
        ui.unsuited.setVisible(bool(ui.unsuited.text))
        ui.region.setVisible(bool(ui.where_region.checked))
        ui.all_frames.setVisible(node is not None and sequence_of(node) is not None)
        ui.run.setEnabled(node is not None)
        self._ui.estimate.setText("")
        self._soon.start()

    def orders(self) -> list[Order]:
        """What the controls ask for.

        Raises
        ------
        UserError : it cannot be done
        """
        ui = self._ui
        options: dict[str, Any] = {"tta": bool(ui.mirror.checked), "certainty": bool(ui.certainty.checked),
                                   "maskNode": ui.mask.currentNode()}
        if ui.where_region.checked:
            options["roiNode"] = ui.region.currentNode()
            if options["roiNode"] is None:
                raise UserError("No region is chosen; make one with the module Markups and choose it, or segment the "
                                "whole image.")
        elif ui.where_view.checked:
            options["viewNodes"] = slice_views()
        elif ui.where_slice.checked:
            options["sliceNode"] = red_slice()
        image = ui.image.currentNode()
        more = [node for node in ui.more_images.checkedNodes() if node is not image]
        found: list[Order] = []
        for node in (image, *more):
            if node is not None and ui.all_frames.checked:
                found += self._logic.orders(node, self.model_name, **options)
            else:
                found.append(self._logic.order(node, self.model_name, **options))
        return found

    def run(self, *_: object) -> None:
        """Carry out what is asked for."""
        if self.is_busy:
            return
        self._forget_question()
        self._frames.clear()
        try:
            self._waiting = self.orders()
        except UserError as error:
            self.show_idle(str(error))
            return
        self._show_busy("Preparing")
        self._next()

    def cancel(self, *_: object) -> None:
        """Stop what runs and forget what waits."""
        self._waiting.clear()
        if self._run is not None:
            self._ui.cancel.setEnabled(False)
            self._ui.progress_line.setText("Stopping…")
            self._run.cancel()

    def estimate(self) -> None:
        """Ask what the chosen work would take; not while the process that knows is busy."""
        self._forget_question()
        if self.is_busy or self._ui.image.currentNode() is None:
            return
        try:
            order = self.orders()[0]
        except UserError as error:
            self._show_estimate(str(error), is_fine=False)
            return
        self._question = self._logic.estimate(order, Listener(finished=self._on_estimate,
                                                              failed=lambda line, _: self._on_no_estimate(line)))
        self._track(self._question)

    def open_sample(self, *_: object) -> None:
        """Show a small volume that comes along, so that there is something to try."""
        self._ui.image.setCurrentNode(slicer.util.loadVolume(str(_SAMPLE)))

    def show_idle(self, message: str = "", details: str = "") -> None:
        """Nothing runs: the button segments; `message` says what came of the last run."""
        ui = self._ui
        ui.run.setVisible(True)
        for control in (ui.cancel, ui.progress, ui.progress_line):
            control.setVisible(False)
        ui.message.setText(message)
        ui.message.setVisible(bool(message))
        self._details.show(details)

    def close(self) -> None:
        """Forget everything at once."""
        self._waiting.clear()
        self._soon.stop()
        self._forget_question()
        if self._run is not None:
            self._run.cancel()

    def _next(self) -> None:
        order = self._order = self._waiting.pop(0)
        run = self._run = self._logic.start(order, self._listener(self._on_finished))
        self._track(run)

    def _listener(self, finished: Callable[[Any], None]) -> Listener:
        return Listener(self._on_progress, finished, self._on_failed, lambda: self._on_failed("Stopped."))

    def _on_progress(self, update: Progress) -> None:
        ui = self._ui
        if update.total:
            ui.progress.setRange(0, update.total)
            ui.progress.setValue(update.done)
        more = f"; {len(self._waiting)} more waiting" if self._waiting else ""
        ui.progress_line.setText(words.progress_sentence(update) + more)

    def _on_finished(self, outcome: Outcome) -> None:
        n_waiting = len(self._waiting)
        self._over("\n".join((words.found(outcome.record), *outcome.record["notes"])))
        if outcome.order.frame is None:
            self._on_result(outcome, n_waiting)
            return
        self._frames.append(outcome)
        volume = outcome.order.source.node
        if not any(order.source.node is volume for order in (*self._waiting, *self._running())):
            self._show_frames()

    def _show_frames(self) -> None:
        """Let the browser step through the results of a sequence, once there are no more to come."""
        frames, self._frames = self._frames, []
        volume = frames[0].order.source.node
        if sequence_of(volume) is None:  # the browser was removed meanwhile
            for n_later, each in zip(reversed(range(len(frames))), frames, strict=True):
                self._on_result(each, n_later)
            return
        self._on_frames(show_frames(volume, {each.order.frame: each.node for each in frames}), frames)

    def _running(self) -> list[Order]:
        return [] if self._order is None else [self._order]

    def _on_failed(self, sentence: str, details: str = "") -> None:
        self._waiting.clear()
        self._over(sentence, details)
        self._frames = [each for each in self._frames if not each.order.source.is_gone]
        if self._frames:  # time points that were done before
            self._show_frames()

    def _over(self, message: str, details: str = "") -> None:
        run, self._run, self._order = self._run, None, None
        if run is not None:
            run.close()
        if self._waiting:
            self._next()
        else:
            self.show_idle(message, details)

    def _show_busy(self, line: str) -> None:
        ui = self._ui
        ui.run.setVisible(False)
        ui.progress.setRange(0, 0)
        ui.cancel.setEnabled(True)
        for control in (ui.cancel, ui.progress, ui.progress_line):
            control.setVisible(True)
        ui.progress_line.setText(line)
        ui.message.setVisible(False)
        self._details.show("")

    def _on_estimate(self, estimate: Any) -> None:
        self._forget_question()
        self._show_estimate(words.estimate_line(estimate), is_fine=estimate.fits)

    def _on_no_estimate(self, line: str) -> None:
        self._forget_question()
        self._show_estimate(line, is_fine=False)

    def _show_estimate(self, line: str, *, is_fine: bool) -> None:
        self._ui.estimate.setText(line)
        self._ui.estimate.setStyleSheet("" if is_fine else "color: #d9534f")

    def _forget_question(self) -> None:
        if self._question is not None:
            self._question.close()
            self._question = None

    def _on_model(self, index: int) -> None:
        if not 0 <= index < len(self._models):
            return
        name, model = list(self._models.items())[index]
        self._ui.model_line.setText(words.model_line(model))
        self._ui.model_card.setText(words.model_card(model))
        if self._parameters is not None:
            self._parameters.model = name
        self.look()

    def _on_activated(self, index: int) -> None:
        """The last entry asks for a folder."""
        if index != len(self._models):
            return
        chosen = self._parameters.model if self._parameters is not None else ""
        self.fill_models(chosen or _FIRST)
        folder = qt.QFileDialog.getExistingDirectory(None, "A model package, or an nnU-Net model folder")
        if folder:
            self.open_model(Path(folder))

    def open_model(self, folder: Path) -> None:
        """Choose the model in a folder; one of nnU-Net or U-Mamba becomes a package first."""
        if (folder / "model.json").is_file():
            try:
                self.choose_model(str(folder))
            except UserError as error:
                self.show_idle(str(error))
            return
        if self.is_busy:
            return
        output = data_folder() / "models" / folder.name
        self._show_busy("Reading the model…")
        self._run = Run(self._logic.worker, "import", lambda *_: {"source": str(folder), "output": str(output)},
                        lambda answer, _: str(answer["model"]), self._listener(self._on_imported))
        self._track(self._run)

    def _on_imported(self, name: str) -> None:
        self._over("The model was read; it is in the list from now on.")
        self.choose_model(name)

    def _on_choice(self, *_: object) -> None:
        if self._parameters is not None:
            self._parameters.where = next(place for place in _PLACES if getattr(self._ui, f"where_{place}").checked)
        self.look()


def _reading(node: Any) -> str:
    if node is None:
        return ""
    try:
        return words.read_as(read_volume(node).image)
    except UserError as error:
        return str(error)


def _recent() -> list[str]:
    return [name for name in str(qt.QSettings().value(_RECENT) or "").split("\n") if name]

