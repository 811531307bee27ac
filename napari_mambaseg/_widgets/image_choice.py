"""Which image layer is segmented: one of them, or all that are selected in the layer list."""

from __future__ import annotations

from typing import Any

from napari.layers import Image
from psygnal import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy

__all__ = ["ImageChoice", "narrow"]


def narrow(box: QComboBox) -> QComboBox:
    """A list that may be narrower than its longest entry."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


class ImageChoice(QComboBox):
    """Follows the viewer's layer list; `chosen` is emitted when another image is meant.

    An image that is made active in the layer list becomes the chosen one.
    """

    chosen = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        narrow(self)
        self.setObjectName("image")
        self.setToolTip("The image layer to segment. Select several layers in the layer list to segment them all.")
        self._viewer = viewer
        self._layers: list[list[Any]] = []
        self._told: list[Any] = []
        self.currentIndexChanged.connect(self._tell)
        layers = viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered,
                      layers.selection.events.changed):
            event.connect(self.refill)
        layers.selection.events.active.connect(self._follow)
        self.refill()

    @property
    def layers(self) -> list[Any]:
        """The chosen image layers; empty where there is no image."""
        index = self.currentIndex()
        return list(self._layers[index]) if 0 <= index < len(self._layers) else []

    def choose(self, layer: Any) -> None:
        """Make a layer the chosen one, if it is an image of this viewer."""
        if [layer] in self._layers:
            self.setCurrentIndex(self._layers.index([layer]))

    def disconnect_viewer(self) -> None:
        """Stop following the layer list."""
        layers = self._viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered,
                      layers.selection.events.changed):
            event.disconnect(self.refill)
        layers.selection.events.active.disconnect(self._follow)

    def refill(self, event: Any = None) -> None:
        """List the image layers anew and keep the choice where it is still there."""
        former = self.layers
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        selected = [layer for layer in images if layer in self._viewer.layers.selection]
        self._layers = [[layer] for layer in reversed(images)]  # topmost first, as in the layer list
        if len(selected) > 1:
            self._layers.append(selected)
        self.blockSignals(True)
        self.clear()
        for layers in self._layers:
            self.addItem(layers[0].name if len(layers) == 1 else f"All {len(layers)} selected images")
        if former in self._layers:
            self.setCurrentIndex(self._layers.index(former))
        self.blockSignals(False)
        self._tell()

    def _follow(self, event: Any) -> None:
        if isinstance(event.value, Image):
            self.choose(event.value)

    def _tell(self, index: int = 0) -> None:
        if self.layers != self._told:
            self._told = self.layers
            self.chosen.emit()
