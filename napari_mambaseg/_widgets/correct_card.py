"""The card Correct: what was corrected and when it was saved, the tour of unsure places, the tools."""

from __future__ import annotations

import time

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QWidget

from mambaseg import words
from mambaseg.learn.corrections import Counts
from napari_mambaseg._widgets.card import Card, check_box, label, push_button

__all__ = ["CorrectCard"]


class CorrectCard(Card):
    """Puts the small widgets below one another; `napari_mambaseg._teaching` connects them."""

    def __init__(self, waits_for: str) -> None:
        super().__init__("Correct", "correct_card", waits_for)
        self._saved_s: float | None = None
        self.about = label(name="about_correcting")
        self.saved = QLabel()
        self.saved.setObjectName("saved")
        self.saved.setToolTip("Strokes are on the disk before you can draw the next one.")
        self.unsure = push_button("Show me where it is unsure", "unsure", "Jumps to what the model is least sure of, "
                                  "the worst first (U). Enter: it is right. Draw: correct it. Esc: skip.")
        self.unsure_line = QLabel()
        self.unsure_line.setObjectName("unsure_line")
        self.confirm = push_button("This region is right", "confirm", "Confirms what is in view, or the rectangle of a "
                                   "Shapes layer that is active (C).")
        self.split = push_button("Split", "split_objects", "Click two places in one cell to cut it in two.")
        self.merge = push_button("Merge", "merge_objects", "Click two cells to make them one.")
        self.split.setCheckable(True)
        self.merge.setCheckable(True)
        self.counts = label(name="counts")
        self.locked = check_box("Locked", "locked", "What was corrected or confirmed keeps its labels when the image "
                                "is segmented again. White rim: corrected; dot: confirmed.")
        self.locked.setChecked(True)
        self.adapt = check_box("Adapt at once", "adapt", "A moment after each stroke the rest of the view changes as "
                               "the model would after learning from it.")
        self.adapt_line = QLabel()
        self.adapt_line.setObjectName("adapt_line")
        self.save = push_button("Save labels…", "save", "Writes the labels as a picture or a volume, and beside it "
                                "a table of the objects and a record of what ran.")
        self.message = label(name="correct_message")
        self.resume = QWidget()
        self.resume.setObjectName("resume")
        self.resume_line = label(name="resume_line")
        self.go_on = push_button("Go on where you stopped", "go_on", "Shows the labels as you left them.")
        self.adopt = push_button("Correct the labels of this layer", "adopt", "Keeps what you draw in the labels "
                                 "layer that is chosen in the layer list, and lets the model learn from it.")
        self._lay_out()
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tell_saved)
        self.show_found("")
        self.show_saved(None)
        self.show_place(0, 0)
        self.show_message("")

    def show_found(self, found: str) -> None:
        """What there is to correct: "214 objects"; empty where that was not counted."""
        said = "Draw with the Labels tools; every stroke is kept."
        self.about.setText(f"{found}. {said}" if found else said)

    def show_counts(self, counts: Counts) -> None:
        """How many objects were corrected and confirmed."""
        line = words.counted(counts.n_corrected, counts.n_confirmed)
        self.counts.setText(f"{line}\n{counts.notice}" if counts.notice else line)

    def show_saved(self, saved_s: float | None, problem: str = "") -> None:
        """When the last stroke reached the disk, in seconds since 1970, or why it did not."""
        self._saved_s = saved_s
        self._tell_saved()
        if saved_s is not None and not problem:
            self._clock.start()
        else:
            self._clock.stop()
            self.saved.setText("Not saved" if problem else "")

    def show_place(self, number: int, n: int) -> None:
        """Which unsure place is in view; 0: none."""
        self.unsure_line.setText(f"{number} of {n}" if number else "")
        self.unsure.setText("Next" if number else "Show me where it is unsure")

    def show_message(self, text: str) -> None:
        """A line on what to do next, or what could not be done."""
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def show_kind(self, *, is_instances: bool, can_adapt: bool) -> None:
        """Offer what suits the model."""
        self.split.setVisible(is_instances)
        self.merge.setVisible(is_instances)
        self.adapt.setEnabled(can_adapt)

    def _tell_saved(self) -> None:
        if self._saved_s is None:
            return
        self.saved.setText(words.saved(max(0.0, time.time() - self._saved_s)))

    def _lay_out(self) -> None:
        offer = QGridLayout(self.resume)
        offer.setContentsMargins(6, 0, 6, 6)
        for row, widget in enumerate((self.resume_line, self.go_on, self.adopt)):
            offer.addWidget(widget, row, 0)
        self.resume.hide()
        self.layout().addWidget(self.resume)  # outside of the body: there is nothing to correct yet
        unsure = _row(self.unsure, self.unsure_line)
        tools = _row(self.confirm, self.split, self.merge)
        counts = _row(self.counts, self.locked)
        adapt = _row(self.adapt, self.adapt_line)
        self.content.addWidget(self.about)
        self.content.addLayout(unsure)
        self.content.addLayout(tools)
        self.content.addWidget(self.message)  # in view where the window is low, and below the buttons that it is about
        self.content.addLayout(counts)
        self.content.addLayout(adapt)
        self.content.addLayout(_row(self.save, self.saved))


def _row(first: QWidget, *others: QWidget) -> QHBoxLayout:
    """One widget that takes the room, and others beside it."""
    row = QHBoxLayout()
    row.setSpacing(4)
    row.addWidget(first, 1)
    for other in others:
        row.addWidget(other)
    return row
