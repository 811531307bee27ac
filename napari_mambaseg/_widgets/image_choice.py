"""Which image layer is segmented: one of them, or those selected in the layer list, in turn or as one image."""

from __future__ import annotations

from typing import Any

from napari.layers import Image
from psygnal import Signal

from napari_mambaseg._adapt import can_be_channels
from napari_mambaseg._widgets.narrow_box import NarrowBox

__all__ = ["ImageChoice"]


class ImageChoice(NarrowBox):
    """Follows the viewer's layer list; `chosen` is emitted when another image is meant.

    An image that is made active in the layer list becomes the chosen one.
    """

    chosen = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.setObjectName("image")
        self.setToolTip("The image layer to segment. Select several in the layer list to segment them all, or to use "
                        "them as the channels of one image.")
        self._viewer = viewer
        self._choices: list[tuple[list[Any], bool]] = []  # layers, and whether they are channels of one image
        self._told: tuple[list[Any], bool] = ([], False)
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
        return list(self._choice[0])

    @property
    def is_one(self) -> bool:
        """Whether the layers are the channels of one image."""
        return self._choice[1]

    @property
    def _choice(self) -> tuple[list[Any], bool]:
        index = self.currentIndex()
        return self._choices[index] if 0 <= index < len(self._choices) else ([], False)

    def choose(self, layer: Any) -> None:
        """Make a layer the chosen one, if it is an image of this viewer; not while it is one of the chosen channels."""
        if ([layer], False) in self._choices and not (self.is_one and layer in self.layers):
            self.setCurrentIndex(self._choices.index(([layer], False)))

    def disconnect_viewer(self) -> None:
        """Stop following the layer list."""
        layers = self._viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered,
                      layers.selection.events.changed):
            event.disconnect(self.refill)
        layers.selection.events.active.disconnect(self._follow)

    def refill(self, event: Any = None) -> None:
        """List the image layers anew and keep the choice where it is still there."""
        former = self._choice
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        selected = [layer for layer in images if layer in self._viewer.layers.selection]
        self._choices = [([layer], False) for layer in reversed(images)]  # topmost first, as in the layer list
        if len(selected) > 1:
            self._choices.append((selected, False))
        if can_be_channels(selected):
            self._choices.append((selected, True))
        elif former[1] and all(layer in images for layer in former[0]):
            self._choices.append(former)  # so that its result can be selected without losing it
        self.blockSignals(True)
        self.clear()
        for layers, is_one in self._choices:
            self.addItem(_title(layers, is_one=is_one))
        if former in self._choices:
            self.setCurrentIndex(self._choices.index(former))
        self.blockSignals(False)
        self._tell()

    def _follow(self, event: Any) -> None:
        if isinstance(event.value, Image):
            self.choose(event.value)

    def _tell(self, index: int = 0) -> None:
        if self._choice != self._told:
            self._told = self._choice
            self.chosen.emit()


def _title(layers: list[Any], *, is_one: bool) -> str:
    if len(layers) == 1:
        return str(layers[0].name)
    if is_one:
        return f"{' + '.join(layer.name for layer in layers)} as one image"
    return f"All {len(layers)} selected images, in turn"
