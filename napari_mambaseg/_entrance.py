"""Labels that enter the viewer in several turns of the window's loop, so that it stands still for none of them long.

In one turn that is the longest pause of a run: napari draws up the outlines of the layer's brush and polygon, makes
its controls, and draws it for the first time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from napari_mambaseg._background import timer

__all__ = ["Entrance", "put_off_tools"]

_PAUSE_MS = 20  # between two steps, in which the window draws and listens


class Entrance:
    """Adds labels, a step at a time."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._steps: list[tuple[Any, Callable[[], object]]] = []
        self._timer = timer(_PAUSE_MS, self._next)

    def add(self, layer: Any) -> None:
        """Put a layer into the list at once; it is seen a turn later, and the outlines of its tools follow."""
        hidden = [layer, *put_off_tools(layer)]
        layer.visible = False
        self._viewer.add_layer(layer)
        steps: list[Callable[[], object]] = [partial(setattr, each, "visible", True) for each in hidden]
        # What is drawn up later than its layer lies half a voxel beside it until the next refresh
        steps.append(partial(layer.refresh, extent=False, thumbnail=False, highlight=False))
        self._steps += [(layer, step) for step in steps]
        self._timer.start()

    def close(self) -> None:
        """Leave it as it is."""
        self._steps.clear()
        with contextlib.suppress(RuntimeError):  # Qt may have taken the timer down already, with the application
            self._timer.stop()

    def _next(self) -> None:
        """The next step of a layer that is still there."""
        self._steps = [each for each in self._steps if each[0] in self._viewer.layers]
        if self._steps:
            self._steps.pop(0)[1]()
            self._timer.start()


def put_off_tools(layer: Any) -> list[Any]:
    """Have napari not draw up the outlines of a layer's brush and polygon; each is, once it is made visible.

    Parameters
    ----------
    layer : that is in no viewer yet

    Returns
    -------
    The outlines; none where napari keeps them elsewhere, which costs time but nothing else
    """
    overlays = getattr(layer, "_overlays", {})
    found = [overlays[name] for name in ("polygon", "brush_stroke") if name in overlays]
    for overlay in found:
        overlay.visible = False
    return found
