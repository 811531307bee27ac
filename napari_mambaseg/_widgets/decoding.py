"""Two sliders that change how the result is cut into objects, without asking the network again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psygnal import Signal
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QGridLayout, QLabel, QSlider, QWidget

from mambaseg.instances import DEFAULT_MIN_SIZE_PX, Decoder

__all__ = ["Decoding"]

_PAUSE_MS = 120  # after the last movement, so that a drag is one decoding and not fifty
_SIZE_STEPS = 60
_SPLIT_STEPS = 100


class Decoding(QWidget):
    """Smallest size and split strength; `changed` carries the settings of a `Decoder` that differ from the model's."""

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("decoding")
        self.min_size = _slider("min_size", _SIZE_STEPS, "Objects smaller than this are left out.")
        self.split = _slider("split", _SPLIT_STEPS, "To the right, objects that touch are cut apart more readily.")
        self._min_size_line, self._split_line = QLabel(), QLabel()
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        for row, (text, slider, line) in enumerate((("Smallest", self.min_size, self._min_size_line),
                                                    ("Split", self.split, self._split_line))):
            title = QLabel(text)
            title.setBuddy(slider)
            line.setMinimumWidth(58)
            layout.addWidget(title, row, 0)
            layout.addWidget(slider, row, 1)
            layout.addWidget(line, row, 2)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE_MS)
        self._timer.timeout.connect(lambda: self.changed.emit(self.settings))
        self._unit = "px"
        self._default = float(DEFAULT_MIN_SIZE_PX)
        for slider in (self.min_size, self.split):
            slider.valueChanged.connect(self._on_moved)

    @property
    def settings(self) -> dict[str, float]:
        """What the sliders say, for `mambaseg.instances.Decoder`."""
        return {"min_size": self._size(), "split": self.split.value() / _SPLIT_STEPS}

    def start_from(self, decoder: Mapping[str, Any], unit: str) -> None:
        """Put the sliders where a model has them.

        Parameters
        ----------
        decoder : settings of the model
        unit : of sizes, for people: "px", "um²"
        """
        self._unit = unit
        self._default = float(decoder.get("min_size") or DEFAULT_MIN_SIZE_PX)
        for slider, value in ((self.min_size, _SIZE_STEPS // 2),
                              (self.split, round(_SPLIT_STEPS * float(decoder.get("split", Decoder.split))))):
            slider.blockSignals(True)
            slider.setValue(value)
            slider.blockSignals(False)
        self._write()

    def _size(self) -> float:
        """The model's own size in the middle, 0 at the left end, 32 times as much at the right one."""
        step = self.min_size.value()
        return 0.0 if step == 0 else self._default * 2.0 ** ((step - _SIZE_STEPS // 2) / 6)

    def _on_moved(self, value: int) -> None:
        self._write()
        self._timer.start()

    def _write(self) -> None:
        self._min_size_line.setText(f"{self._size():.3g} {self._unit}")
        self._split_line.setText(f"{self.split.value()} %")


def _slider(name: str, n_steps: int, tip: str) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setObjectName(name)
    slider.setRange(0, n_steps)
    slider.setPageStep(max(1, n_steps // 10))
    slider.setToolTip(tip)
    if name == "split":
        slider.setRange(1, n_steps - 1)  # both ends excluded
    return slider
