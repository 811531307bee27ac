"""The card Correct: what was found, the Segment Editor, the next unsure place, and what is confirmed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import qt
from numpy.typing import NDArray

import slicer
from mambaseg import UserError, words
from MambaSegLib._adapt import Box
from MambaSegLib._at_once import AtOnce
from MambaSegLib._background import Background
from MambaSegLib._corrections import Correcting, State
from MambaSegLib._details import Details
from MambaSegLib._editor import Editor
from MambaSegLib._results import Result, result_of, results, results_of
from MambaSegLib._runs import Run
from MambaSegLib._segments import Painted, relabel
from MambaSegLib._sequences import browser_of, shown_frame
from MambaSegLib._tour import Tour
from MambaSegLib._where import red_slice, region_box, slice_box
from MambaSegLib.Logic import MambaSegLogic, Outcome

__all__ = ["CorrectCard"]

_WAITS = "Segment something first."
_OPENS = "Getting ready to keep corrections…"
_NOT_SEGMENTED = "Time point {number} of {n} is not segmented; go to one that is, or press Segment."
_HINT = "Draw with the tools below; every stroke is kept."
_SETTLE_S = 0.4  # strokes come in bursts; they are kept once the hand rests, or at once when anything is asked
_SECOND_MS = 1000
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
        self._wake = wake
        self._on_change = on_change
        self._parameters: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._followed: Result | None = None  # the one at work, or whose time point has nothing to work on
        self._changed_at_s: float | None = None
        self._n_changes = 0
        self._to_lay: tuple[NDArray[Any], Box | None] | None = None
        self._clock = qt.QTimer()
        self._clock.setInterval(_SECOND_MS)
        self._clock.connect("timeout()", self._tell_saved)
        self.background = Background(wake, self._on_failed)
        self._details = Details(ui.correct_details, ui.correct_waits, ui.saved)
        self._editor = Editor(ui.editor)
        self._at_once = AtOnce(ui, logic, track, self.lay)
        self.tour = Tour(ui, self._accept)
        self.correcting: Correcting | None = None
        self.state = State()
        ui.confirm.connect("clicked(bool)", self.confirm)
        ui.locked.setChecked(True)
        self.wait_for(_WAITS)

    @property
    def is_waiting(self) -> bool:
        """Whether strokes wait to be kept."""
        return self._changed_at_s is not None or self._to_lay is not None or self.background.is_busy

    # --- results come and go ---

    def set_parameters(self, parameters: Any) -> None:
        """Follow another scene: go on with the result that was corrected in it."""
        self.forget()
        self._parameters = parameters
        node = None if parameters is None else parameters.result
        if node is not None and any(result.folder for result in results_of(node)):
            self._resume(result_of(node))

    def choose(self, volume: Any) -> None:
        """Another volume is looked at: go on with its newest result, where it has one."""
        mine = [result for result in results() if volume is not None and result.volume is volume and result.folder]
        if mine and (self.correcting is None or self.correcting.node is not mine[-1].node):
            self._resume(result_of(mine[-1].node))

    def begin(self, outcome: Outcome, *, is_shown: bool = True) -> None:
        """Take a fresh result as what will be corrected; not yet, where it is not the one to be looked at."""
        self._begin(result_of(outcome.node), outcome, is_shown=is_shown)

    def begin_frames(self, node: Any, outcomes: list[Outcome]) -> None:
        """Take the results of a sequence; the one in view will be corrected first.

        Parameters
        ----------
        node : segmentation node that shows them in turn
        outcomes : one a time point
        """
        found = results_of(node)
        frames = sorted(((found[each.order.frame or 0], each) for each in outcomes),
                        key=lambda frame: not frame[0].is_shown)
        self._begin_frames(frames, is_shown=True)

    def forget(self) -> None:
        """Let go of the result; what was drawn is kept first."""
        self.keep_now()
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed.clear()
        self._followed = None
        self._at_once.use(None)
        self._to_lay = None
        self._clock.stop()
        self.tour.use(None)
        correcting, self.correcting = self.correcting, None
        if correcting is not None:
            self.background.do(correcting.close, _ignore)  # after what still has to be written
        self.state = State()
        self.wait_for(_WAITS)
        self._on_change()

    def close(self) -> None:
        """Let go of the result, and of the thread."""
        self.forget()
        self.background.finish()
        self.background.close()

    # --- what is drawn ---

    def tick(self) -> None:
        """Hand over what is done, and keep what was drawn once the hand rests."""
        self.background.tick()
        if self._changed_at_s is not None and time.monotonic() - self._changed_at_s > _SETTLE_S:
            self.keep_now()
        elif self._changed_at_s is None and self._to_lay is not None and not self.background.is_busy:
            (found, box), self._to_lay = self._to_lay, None
            self._lay(found, box)

    def keep_now(self) -> None:
        """Have what was drawn put on the disk; the segments may change at once, they were copied."""
        if self._changed_at_s is None:
            return
        self._changed_at_s = None
        correcting = self.correcting
        if correcting is not None and not correcting.result.is_gone:
            drawn = correcting.drawn()
            self._do(correcting, lambda: correcting.record(drawn), self._on_kept)

    def confirm(self, *_: object) -> None:
        """Take what is in view, or in the chosen region, as right."""
        if self.correcting is None:
            return
        region = self._ui.region.currentNode() if self._ui.where_region.checked else None
        source = self.correcting.source
        try:
            box = slice_box(source, red_slice()) if region is None else region_box(source, region)
        except UserError as error:
            self._ui.saved.setText(str(error))
            return
        self._confirm(box, 0)

    def lay(self, found: NDArray[Any], box: Box | None = None) -> None:
        """Show other labels around what was corrected, once the hand rests.

        Parameters
        ----------
        found : of the box (None: of everything)
        """
        self._to_lay = (found, box)
        self._wake()

    def look_again(self) -> None:
        """Say anew what there is: another model is in use."""
        if self.correcting is not None:
            self._do(self.correcting, lambda: None, _ignore)
        self._on_change()

    def toggle_outline(self) -> None:
        """Outlines instead of filled segments, and back."""
        display = None if self.correcting is None else self.correcting.node.GetDisplayNode()
        if display is not None:
            display.SetVisibility2DFill(not display.GetVisibility2DFill())

    # --- the card ---

    def wait_for(self, what: str) -> None:
        """Say in one grey line what is missing; an empty text opens the card."""
        self._ui.correct_waits.setText(what)
        self._ui.correct_waits.setVisible(bool(what))
        self._ui.correct_body.setVisible(not what)

    def _do(self, correcting: Correcting, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Work in the thread; what comes of it is shown as long as the result is the one at work."""
        def deliver(made: tuple[Any, State]) -> None:
            if correcting is self.correcting:
                self._show_state(made[1])
                then(made[0])

        self.background.do(lambda: (work(), correcting.state()), deliver)

    def _begin_frames(self, frames: list[tuple[Result, Outcome]], *, is_shown: bool = False) -> None:
        """One after the other, so that all find the project of the first."""
        if frames:
            self._begin(*frames[0], is_shown=is_shown, then=functools.partial(self._begin_frames, frames[1:]))

    def _begin(self, result: Result, outcome: Outcome, *, is_shown: bool, then: Callable[[], None] | None = None
               ) -> None:
        if is_shown:
            self.forget()
            self.wait_for(_OPENS)
        try:
            work = Correcting.opening(result, outcome.order.source, outcome.identity)
        except UserError as error:
            self.wait_for(str(error))
            return
        keep_locked = bool(self._ui.locked.checked)
        self.tour.learn_of(outcome.identity.checksum, list(outcome.doubts))

        def open_journal() -> tuple[Correcting, State, Painted | None]:
            opened = work()
            shown = opened.show(outcome.labels, keep_locked=keep_locked)
            is_other = bool((shown != outcome.labels).any())  # corrections of an earlier result of this volume
            return opened, opened.state(), Painted.of(shown, opened.model) if is_other else None

        def begun(opened: tuple[Correcting, State, Painted | None]) -> None:
            self._begun(outcome, *opened, is_shown=is_shown)
            if then is not None:
                then()

        self.background.do(open_journal, begun)

    def _begun(self, outcome: Outcome, correcting: Correcting, state: State, painted: Painted | None, *,
               is_shown: bool) -> None:
        """The journal knows the result."""
        if correcting.result.is_gone:
            correcting.close()
            self.wait_for(_WAITS)
            return
        correcting.mark()
        if painted is not None:
            relabel(correcting.result.keeper, correcting.source, painted, correcting.model)
        if not is_shown:
            correcting.close()
            if self.correcting is None and correcting.result.is_shown:  # this time point came into view meanwhile
                self._resume(correcting.result)
            return
        self._use(correcting, state, f"{words.found(outcome.record)}. {_HINT}")

    def _resume(self, result: Result) -> None:
        """Go on with a result."""
        self.forget()
        self._follow(result)
        if result.frame is not None and not result.model_name:
            number, n = shown_frame(result.node) + 1, len(results_of(result.node))
            self.wait_for(_NOT_SEGMENTED.format(number=number, n=n))
            return
        try:
            work = Correcting.resuming(result)
        except UserError as error:
            self.wait_for(str(error))
            return
        self.wait_for(_OPENS)

        def resume() -> tuple[Correcting, State]:
            resumed = work()
            return resumed, resumed.state()

        def use(resumed: tuple[Correcting, State]) -> None:
            if result.is_gone:
                resumed[0].close()
                self.wait_for(_WAITS)
            else:
                self._use(*resumed, _HINT)

        self.background.do(resume, use)

    def _use(self, correcting: Correcting, state: State, said: str) -> None:
        self.forget()
        self.correcting = correcting
        self._at_once.use(correcting)
        if self._parameters is not None:
            self._parameters.result = correcting.node
        segmentation = correcting.node.GetSegmentation()
        self._observed = [(segmentation, segmentation.AddObserver(getattr(slicer.vtkSegmentation, event), self._touch))
                          for event in _EVENTS]
        self._follow(correcting.result)
        self.wait_for("")
        self._ui.found.setText(said)
        self._editor.open(correcting)
        self.tour.use(correcting)
        self._clock.start()
        self._show_state(state)
        self._touch()  # what was drawn before this program looked
        if not correcting.result.is_shown:  # another time point came into view meanwhile
            self._on_frame()

    def _follow(self, result: Result) -> None:
        """Notice when the browser shows another time point."""
        self._followed = result
        browser = browser_of(result.node)
        if browser is not None:
            self._observed.append((browser, browser.AddObserver("ModifiedEvent", self._on_frame)))

    def _on_frame(self, *_: object) -> None:
        """Another time point may have come into view."""
        followed = self._followed
        if followed is not None and not followed.is_shown and not followed.is_gone:
            self._changed_at_s = time.monotonic()  # the time point that was left still has what was drawn
            self._resume(result_of(followed.node))

    def _on_kept(self, has_changed: bool) -> None:
        """What was drawn is on the disk."""
        if has_changed:
            self._at_once.learn()

    def _on_failed(self, sentence: str, details: str) -> None:
        """The thread could not do something."""
        self._details.show(details)
        if self.correcting is None:
            self.wait_for(sentence)
        else:
            self._clock.stop()
            self._ui.saved.setText(sentence)

    def _touch(self, *_: object) -> None:
        """Something may have changed; which event says so does not matter."""
        self._n_changes += 1
        self._changed_at_s = time.monotonic()
        self._wake()

    def _accept(self, doubt: Any) -> None:
        self._confirm(doubt.box, doubt.label)

    def _confirm(self, box: Box, label: int) -> None:
        correcting = self.correcting
        if correcting is not None:
            drawn = correcting.drawn()
            self._changed_at_s = None
            self._do(correcting, lambda: correcting.confirm(box, drawn, label), _ignore)

    def _lay(self, found: NDArray[Any], box: Box | None) -> None:
        correcting = self.correcting
        if correcting is None:
            return
        drawn, n_changes = correcting.drawn(), self._n_changes

        def look() -> tuple[NDArray[Any], Painted] | None:
            laid = correcting.laid(found, box, drawn)
            return None if laid is None else (laid[0], Painted.of(laid[1], correcting.model))

        def show(looked: tuple[NDArray[Any], Painted] | None) -> None:
            if self._n_changes != n_changes:  # what was drawn meanwhile is a fact, too
                self.lay(found, box)
            elif looked is not None:
                self._show_painted(looked[1])
                self._do(correcting, lambda: correcting.show(looked[0]), _ignore)

        self._do(correcting, look, show)

    def _show_painted(self, painted: Painted) -> None:
        """Other labels in the result; the events are of our own making."""
        correcting = self.correcting
        if correcting is not None:
            relabel(correcting.node, correcting.source, painted, correcting.model)
            self._changed_at_s = None
            self._editor.forget_undo()

    def _show_state(self, state: State) -> None:
        if self.correcting is None:
            return
        self._details.show("")
        is_news = (state.is_touched, state.versions) != (self.state.is_touched, self.state.versions)
        self.state = state
        counts = state.counts
        lines = (words.counted(counts.n_corrected, counts.n_confirmed), counts.notice,
                 self.correcting.notice)
        self._ui.counts.setText("\n".join(line for line in lines if line))
        self._clock.start()
        self._tell_saved()
        if is_news:
            self._on_change()

    def _tell_saved(self) -> None:
        saved_s = self.state.saved_s
        self._ui.saved.setText("" if saved_s is None else words.saved(max(0.0, time.time() - saved_s)))


def _ignore(_: object) -> None:
    """What is done with what nobody waits for."""
