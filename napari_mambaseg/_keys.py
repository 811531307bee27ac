"""Keys of the whole window; the manifest's key bindings do nothing in napari."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_mambaseg._segmenter import Segmenter
    from napari_mambaseg.panel import Panel

__all__ = ["bind_keys"]


def bind_keys(viewer: Any, panel: Panel) -> None:
    """Let keys of the viewer act on a panel, as long as it is there."""
    alive = weakref.ref(panel)

    def bind(key: str, act: Callable[[Panel], None]) -> None:
        def press(_: Any) -> None:
            target = alive()
            if target is not None:
                act(target)

        viewer.bind_key(key, press, overwrite=True)

    bind("Control-Enter", lambda target: target.run())
    bind("Control-L", lambda target: target.teaching.learn())
    bind("O", lambda target: _toggle_outline(target.segmenter))
    bind("C", lambda target: target.teaching.confirm())
    bind("U", lambda target: target.teaching.show_unsure())


def _toggle_outline(segmenter: Segmenter) -> None:
    """Outlines instead of filled objects, and back."""
    if segmenter.latest is not None:
        layer = segmenter.latest.layer
        layer.contour = 0 if layer.contour else 2
