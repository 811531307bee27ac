"""The card Segment: image, model, how it is read, where, what it will take, and the button."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from napari_mambaseg._widgets.card import Card, check_box, label, named, push_button
from napari_mambaseg._widgets.decoding import Decoding
from napari_mambaseg._widgets.image_choice import ImageChoice
from napari_mambaseg._widgets.model_choice import ModelChoice
from napari_mambaseg._widgets.narrow_box import NarrowBox
from napari_mambaseg._widgets.place_choice import PlaceChoice
from napari_mambaseg._widgets.read_as import ReadAs
from napari_mambaseg._widgets.run_bar import RunBar

__all__ = ["SegmentCard"]


class SegmentCard(Card):
    """Puts the small widgets below one another; the panel connects them."""

    def __init__(self, viewer: Any) -> None:
        super().__init__("Segment", "segment_card")
        self.image = ImageChoice(viewer)
        self.model = ModelChoice()
        self.read_as = ReadAs()
        self.place = PlaceChoice()
        self.estimate = label(name="estimate")
        self.estimate.setToolTip("Judged on this computer, before anything runs.")
        self.run_bar = RunBar("Segment", "Find the cells or structures (Ctrl+Return).")
        self.decoding = Decoding()
        self._make_hint()
        self._make_options()
        self._make_again()
        image_row = QHBoxLayout()
        title = QLabel("Image")
        title.setBuddy(self.image)
        image_row.addWidget(title)
        image_row.addWidget(self.image, 1)
        self.content.addWidget(self.hint)
        self.content.addLayout(image_row)
        for widget in (self.model, self.read_as, self.place, self.more, self.options, self.again, self.estimate,
                       self.run_bar, self.table, self.decoding):
            self.content.addWidget(widget)
        self.show_result(has_table=False, can_decode=False)
        self.show_estimate("")

    @property
    def settings(self) -> dict[str, Any]:
        """Further keyword arguments of `mambaseg.segment`."""
        return {"tta": self.mirror.isChecked()}

    def show_estimate(self, line: str, colour: str = "") -> None:
        """What the work will take, in a colour where it cannot be done; an empty line takes no room."""
        self.estimate.setText(line)
        self.estimate.setStyleSheet(f"color: {colour}" if colour else "")
        self.estimate.setVisible(bool(line))

    def show_result(self, *, has_table: bool, can_decode: bool) -> None:
        """Offer what can be done with the result there is."""
        self.table.setVisible(has_table)
        self.decoding.setVisible(can_decode)

    def _make_hint(self) -> None:
        """What to do when there is no image yet."""
        self.hint = QWidget()
        self.hint.setObjectName("hint")
        self.open_sample = push_button("Open a sample", "open_sample", "Shows a picture of tissue to try things on; it "
                                       "comes along, nothing is fetched.")
        layout = QVBoxLayout(self.hint)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addWidget(label("No image yet. Drop a picture on the window, or", "hint_text"))
        layout.addWidget(self.open_sample)

    def _make_options(self) -> None:
        """Rarely wanted, so folded."""
        self.more = named(QToolButton(), "more", "What is rarely wanted: mirror images, a layer of probabilities.")
        self.more.setText("Options…")
        self.more.setCheckable(True)
        self.options = QWidget()
        self.options.hide()
        self.mirror = check_box("Look at mirror images, too", "tta", "2 to 8 times the work for a slightly better "
                                "result (test-time augmentation).")
        self.probabilities = check_box("Show how certain it is", "probabilities", "Adds a layer with the network's "
                                       "probability, 0 to 1.")
        layout = QVBoxLayout(self.options)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.mirror)
        layout.addWidget(self.probabilities)
        self.more.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.more.setArrowType(Qt.ArrowType.RightArrow)
        self.more.toggled.connect(self._unfold_options)

    def _unfold_options(self, is_open: bool) -> None:
        self.more.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.options.setVisible(is_open)

    def _make_again(self) -> None:
        """What becomes of the former result when the same image is segmented again."""
        self.again = named(NarrowBox(), "again", "What becomes of the result that is already there.")
        self.again.addItem("Replace the last result", True)
        self.again.addItem("Keep it and add another", False)
        self.again.hide()
        self.table = push_button("Show table", "table", "A row for each object: place, size, brightness. A click in it "
                                 "selects the object.")
