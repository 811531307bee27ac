"""How the image is understood, in one line; the fields to change it unfold."""

from __future__ import annotations

from psygnal import Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from mambaseg.image import UNITS
from napari_mambaseg._adapt import Reading
from napari_mambaseg._widgets.card import label, named, push_button
from napari_mambaseg._widgets.narrow_box import NarrowBox

__all__ = ["ReadAs"]

_MEANINGS = {"T": "time", "C": "channel", "Z": "slice", "Y": "row", "X": "column", "S": "colour"}


class ReadAs(QWidget):
    """Shows a `Reading`; `changed` is emitted when the user edits it."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.line = label(name="read_as")
        self.change = push_button("Change…", "change", "How the axes, the voxel size and the channels of the image are "
                                  "understood.")
        self.change.setCheckable(True)
        self.fields = QWidget()
        self.fields.hide()
        self.change.toggled.connect(self.fields.setVisible)
        self._make_fields()
        head = QHBoxLayout()
        head.addWidget(self.line, 1)
        head.addWidget(self.change)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.fields)
        self._reading: Reading | None = None

    @property
    def reading(self) -> Reading | None:
        """The reading as edited."""
        return self._reading

    def offer_channels(self) -> None:
        """Something is wrong with the image: unfold the fields if the choice of a channel may help."""
        if self.channel.count() > 2:  # all of them, and more than one
            self.change.setChecked(True)

    def show_reading(self, reading: Reading | None, choices: tuple[str, ...], n_channels: int, line: str) -> None:
        """Fill the fields.

        Parameters
        ----------
        choices : what the axes may be
        n_channels : 1 hides the choice of a channel
        line : the sentence to show
        """
        self._reading = reading
        self.line.setText(line)
        self.change.setVisible(reading is not None)
        self.fields.setVisible(reading is not None and self.change.isChecked())
        for field in (self.axes, self.unit, self.spacing, self.channel):
            field.blockSignals(True)
        self.axes.clear()
        for axes in choices:
            self.axes.addItem(", ".join(_MEANINGS[letter] for letter in axes), axes)
        self.channel.clear()
        self.channel.addItem("All of them", None)
        for number in range(n_channels):
            self.channel.addItem(f"Only channel {number + 1}", number)
        if reading is not None:
            self.axes.setCurrentIndex(self.axes.findData(reading.axes))
            self.unit.setCurrentText(reading.unit)
            self.spacing.setText(" x ".join(f"{size:.4g}" for size in reading.spacing))
            self.channel.setCurrentIndex(self.channel.findData(reading.channel))
        for widget in (self.channel, self._form.labelForField(self.channel)):  # Qt 5 cannot hide a row
            widget.setVisible(n_channels > 1)
        for field in (self.axes, self.unit, self.spacing, self.channel):
            field.blockSignals(False)

    def _make_fields(self) -> None:
        self.axes = named(NarrowBox(), "axes", "What each axis of the array stands for, the first one first.")
        self.spacing = named(QLineEdit(), "spacing", "Distance between neighbouring voxels, one number an axis: "
                             "2 x 0.5 x 0.5")
        self.unit = named(NarrowBox(), "unit", "Unit of the voxel size; px: not known.")
        self.unit.addItems(UNITS)
        self.channel = named(NarrowBox(), "channel", "Which channel the model gets to see.")
        self._form = QFormLayout(self.fields)
        self._form.setContentsMargins(0, 0, 0, 0)
        for text, field in (("Axes", self.axes), ("Voxel", self.spacing), ("Unit", self.unit),
                            ("Channel", self.channel)):
            self._form.addRow(text, field)
        self.axes.activated.connect(self._edit)
        self.unit.activated.connect(self._edit)
        self.channel.activated.connect(self._edit)
        self.spacing.editingFinished.connect(self._edit)

    def _edit(self, *_: object) -> None:
        former = self._reading
        if former is None:
            return
        axes = str(self.axes.currentData())
        n_spatial = sum(letter in "ZYX" for letter in axes)
        self._reading = Reading(axes, _sizes(self.spacing.text(), former.spacing, n_spatial), self.unit.currentText(),
                                self.channel.currentData() if "C" in axes else None)
        if self._reading != former:
            self.changed.emit()


def _sizes(text: str, former: tuple[float, ...], n: int) -> tuple[float, ...]:
    """The sizes typed, or the former ones where that is not `n` numbers above 0."""
    try:
        sizes = tuple(float(part) for part in text.replace(",", " ").replace("x", " ").split())
    except ValueError:
        sizes = ()
    if len(sizes) == n and all(0 < size < float("inf") for size in sizes):
        return sizes
    return former[-n:] if len(former) >= n else (1.0,) * (n - len(former)) + former
