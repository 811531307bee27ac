"""The card Correct: what was found, the Segment Editor, the next unsure place, and what is confirmed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import slicer
from mambaseg import UserError, words
from MambaSegLib._adapt import region_box, slice_box
from MambaSegLib._corrections import PROJECT, Correcting
from MambaSegLib._learning import Adapting
from MambaSegLib._runs import Listener, Run
from MambaSegLib._segment_card import red_slice
from MambaSegLib._segments import relabel
from MambaSegLib.Logic import MambaSegLogic, Outcome

__all__ = ["CorrectCard"]

_WAITS = "Segment something first."
_OPENS = "Getting ready to keep corrections…"
_YIELD_S = 0.002
_SETTLE_S = 0.4  # strokes come in bursts; they are kept once the hand rests, or at once when anything is asked
_N_UNDO = 10
_EVENTS = ("SourceRepresentationModified", "SegmentModified", "SegmentAdded", "SegmentRemoved")


class CorrectCard:
    """Keeps what is drawn in the result.

    Parameters
    ----------
    ui, logic, track : as for `SegmentCard`
    wake : called when something has changed, so that `tick` is called until `is_waiting` is False
    on_change : called when there is another result, or more to learn from
    """

    def __init__(self, ui: Any, logic: MambaSegLogic, track: Callable[[Run], None], wake: Callable[[], None],
                 on_change: Callable[[], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._track = track
        self._wake = wake
        self._on_change = on_change
        self._parameters: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._changed_at_s: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mambaseg")  # the journal of a large volume is slow
        self._pending: tuple[Future[Any], Callable[[Any], None]] | None = None
        self._opening: Correcting | None = None
        self._adapting: Adapting | None = None
        self._adapt_run: Run | None = None
        self._doubts: list[Any] = []
        self._at = -1
        self.correcting: Correcting | None = None
        ui.confirm.connect("clicked(bool)", self.confirm)
        ui.unsure.connect("clicked(bool)", self.show_next)
        ui.locked.setChecked(True)
        self.wait_for(_WAITS)

    @property
    def is_waiting(self) -> bool:
        """Whether strokes wait to be kept."""
        return self._changed_at_s is not None or self._pending is not None

    def set_parameters(self, parameters: Any) -> None:
        """Follow another scene: go on with the result that was corrected in it."""
        self.forget()
        self._parameters = parameters
        node = None if parameters is None else parameters.result
        if node is None or not node.GetAttribute(PROJECT):
            return
        try:
            self._use(Correcting.resume(node))
        except UserError as error:
            self.wait_for(str(error))

    def begin(self, outcome: Outcome) -> None:
        """Take a fresh result as what will be corrected."""
        self.forget()
        try:
            opening = Correcting.open(outcome.node, outcome.order.source, outcome.order.model_name, outcome.identity)
        except UserError as error:
            self.wait_for(str(error))
            return
        self._opening = opening
        self.wait_for(_OPENS)
        show = functools.partial(opening.image.show_prediction, keep_locked=bool(self._ui.locked.checked))
        self._do(functools.partial(show, outcome.labels), functools.partial(self._begun, outcome, opening))

    def tick(self) -> None:
        """Keep what was drawn, once the hand rests; what takes time is done in a thread."""
        if self._pending is not None:
            future, then = self._pending
            if wait([future], _YIELD_S).done:  # waiting a little lets the thread run at all, see `Run.poll`
                self._pending = None
                self._deliver(future, then)
        elif self._changed_at_s is not None and time.monotonic() - self._changed_at_s > _SETTLE_S:
            self._changed_at_s = None
            if self.correcting is not None and self.correcting.node.GetScene() is not None:
                self._do(functools.partial(self.correcting.image.record, self.correcting.labels(), "segment editor"),
                         self._kept)

    def keep_now(self) -> None:
        """Put what was drawn on the disk, and wait for it; before anything is asked of it."""
        self._finish()
        self._changed_at_s = None
        if self.correcting is None or self.correcting.node.GetScene() is None:
            return
        try:
            self._kept(self.correcting.record())
        except UserError as error:
            self._ui.saved.setText(str(error))

    def confirm(self, *_: object) -> None:
        """Take what is in view, or in the chosen region, as right."""
        self._finish()
        correcting = self.correcting
        if correcting is None:
            return
        region = self._ui.region.currentNode() if self._ui.where_region.checked else None
        try:
            correcting.confirm(slice_box(correcting.source, red_slice()) if region is None
                               else region_box(correcting.source, region))
        except UserError as error:
            self._ui.saved.setText(str(error))
            return
        self._changed_at_s = None
        self._show_state()
        self._on_change()

    def show_next(self, *_: object) -> None:
        """Let the slice views jump to the next least sure place."""
        if self.correcting is None or not self._doubts:
            self._ui.unsure_at.setText("Tick “Show how certain it is” and segment again.")
            return
        self._at = (self._at + 1) % len(self._doubts)
        centre = self._doubts[self._at].centre
        ras = (self.correcting.source.ijk_to_world @ [*centre[::-1], 1])[:3]
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras)
        self._ui.unsure.setText("Next")
        self._ui.unsure_at.setText(f"{self._at + 1} of {len(self._doubts)}")

    def forget(self) -> None:
        """Let go of the result; what was drawn is kept first."""
        self._finish()
        if self.is_waiting:
            self.keep_now()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.close()
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed.clear()
        if self._adapt_run is not None:
            self._adapt_run.close()
        self._adapt_run = self._adapting = None
        self._doubts, self._at = [], -1
        correcting, self.correcting = self.correcting, None
        if correcting is not None:
            correcting.close()
        self.wait_for(_WAITS)
        self._on_change()

    def close(self) -> None:
        """Let go of the result, and of the thread."""
        self.forget()
        self._thread.shutdown(wait=False)

    def wait_for(self, what: str) -> None:
        """Say in one grey line what is missing; an empty text opens the card."""
        self._ui.correct_waits.setText(what)
        self._ui.correct_waits.setVisible(bool(what))
        self._ui.correct_body.setVisible(not what)

    def start_editor(self) -> None:
        """Point the Segment Editor at the result."""
        editor, correcting = self._ui.editor, self.correcting
        editor.setMRMLSegmentEditorNode(_editor_node())
        editor.setMaximumNumberOfUndoStates(_N_UNDO)
        if correcting is not None:
            editor.setSegmentationNode(correcting.node)
            editor.setSourceVolumeNode(correcting.source.node)

    def _do(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Work in a thread, and what to do with what it gives."""
        self._pending = (self._thread.submit(work), then)
        self._wake()

    def _deliver(self, future: Future[Any], then: Callable[[Any], None]) -> None:
        try:
            value = future.result()
        except UserError as error:
            self._ui.saved.setText(str(error))
            if self._opening is not None:
                self.wait_for(str(error))
        else:
            then(value)

    def _finish(self) -> None:
        """Wait for what the thread does."""
        if self._pending is not None:
            (future, then), self._pending = self._pending, None
            wait([future])
            self._deliver(future, then)

    def _begun(self, outcome: Outcome, opening: Correcting, shown: Any) -> None:
        """The journal knows the result."""
        self._opening = None
        if outcome.node.GetScene() is None:
            opening.close()
            self.wait_for(_WAITS)
            return
        if (shown != outcome.labels).any():  # corrections of an earlier result of this volume
            relabel(outcome.node, opening.source, shown, opening.model)
        self._doubts = list(outcome.doubts)
        if self._parameters is not None:
            self._parameters.result = outcome.node
        self._ui.found.setText(f"{words.found(outcome.record)}. Draw with the tools below; every stroke is kept.")
        self._use(opening)

    def _kept(self, stroke: Any) -> None:
        """What was drawn is on the disk; nothing, where nothing had changed."""
        self._show_state()
        if stroke:
            self._on_change()
            self._adapt()

    def _use(self, correcting: Correcting) -> None:
        self.correcting = correcting
        self._adapting = Adapting(self._logic, correcting)
        segmentation = correcting.node.GetSegmentation()
        self._observed = [(segmentation, segmentation.AddObserver(getattr(slicer.vtkSegmentation, event), self._touch))
                          for event in _EVENTS]
        self.wait_for("")
        self.start_editor()
        self._ui.unsure.setText("Show me where it is unsure")
        self._ui.unsure_at.setText("")
        self._show_state()
        self._touch()  # what was drawn before this program looked
        self._on_change()

    def _touch(self, *_: object) -> None:
        """Something may have changed; which event says so does not matter."""
        self._changed_at_s = time.monotonic()
        self._wake()

    def _show_state(self) -> None:
        if self.correcting is None:
            return
        counts = self.correcting.image.counts()
        self._ui.counts.setText(f"{counts.n_corrected:,} corrected, {counts.n_confirmed:,} confirmed")
        self._ui.saved.setText(" ".join(line for line in ("Saved.", counts.notice, self.correcting.notice) if line))

    def _adapt(self) -> None:
        """Learn from the stroke at once, where that is wanted and nothing like it runs."""
        if self._adapting is None or not self._ui.adapt.checked or self._adapt_run is not None:
            return
        self._adapt_run = self._adapting.start(Listener(finished=self._on_adapted, failed=self._on_not_adapted,
                                                        cancelled=lambda: self._on_not_adapted("", "")))
        if self._adapt_run is not None:
            self._ui.saved.setText("Saved. Learning from it…")
            self._track(self._adapt_run)

    def _on_adapted(self, has_changed: bool) -> None:
        self._end_adapting()
        self._changed_at_s = None  # the events were of our own making
        self._show_state()
        if has_changed:  # earlier undo steps hold labels that are not there any more, and would pass for corrections
            self._ui.editor.setMaximumNumberOfUndoStates(0)
            self._ui.editor.setMaximumNumberOfUndoStates(_N_UNDO)

    def _on_not_adapted(self, sentence: str, details: str) -> None:
        self._end_adapting()
        if self._adapting is not None:
            self._adapting.forget_view()
        self._ui.saved.setText(f"Saved. {sentence}")

    def _end_adapting(self) -> None:
        if self._adapt_run is not None:
            self._adapt_run.close()
            self._adapt_run = None


def _editor_node() -> Any:
    """The Segment Editor's settings for this module; made where there are none."""
    tag = "MambaSegEditor"
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node = slicer.mrmlScene.AddNode(node)
    return node
