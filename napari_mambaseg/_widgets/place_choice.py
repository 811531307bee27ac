"""Where to segment: the whole image, what is in view, a drawn region, the current slice; which time points."""

from __future__ import annotations

from psygnal import Signal
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QRadioButton, QWidget

from napari_mambaseg._widgets.card import check_box, named

__all__ = ["PlaceChoice"]

_PLACES = {
    "whole": ("Whole image", "Segment all of it."),
    "view": ("View", "Segment only what the window shows now."),
    "region": ("Region", "Segment only a rectangle that you draw on the image."),
    "slice": ("Slice", "Segment only the slice in view."),
}


class PlaceChoice(QWidget):
    """Four choices and, for time series, whether all time points are meant; `chosen` tells of any change."""

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("where")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        self._group = QButtonGroup(self)
        self.buttons: dict[str, QRadioButton] = {}
        for number, (place, (text, tip)) in enumerate(_PLACES.items()):
            button = named(QRadioButton(text), f"where_{place}", tip)
            self._group.addButton(button)
            layout.addWidget(button, number // 2, number % 2)
            self.buttons[place] = button
        self.buttons["whole"].setChecked(True)
        self.all_frames = check_box("All time points", "all_frames", "Off: only the time point in view.")
        self.all_frames.setChecked(True)
        self.all_frames.hide()
        layout.addWidget(self.all_frames, 2, 0, 1, 2)
        self._group.buttonToggled.connect(self._tell)
        self.all_frames.toggled.connect(self._tell)

    @property
    def place(self) -> str:
        """The chosen place: whole, view, region or slice."""
        return next(place for place, button in self.buttons.items() if button.isChecked())

    def suit(self, *, n_spatial: int, has_time: bool) -> None:
        """Offer only what makes sense for an image."""
        self.buttons["slice"].setEnabled(n_spatial == 3)
        if n_spatial < 3 and self.place == "slice":
            self.buttons["whole"].setChecked(True)
        self.all_frames.setVisible(has_time)

    def _tell(self, *_: object) -> None:
        self.chosen.emit()
