"""Labels that enter step by step end up as if napari had added them at once."""

from typing import Any

import numpy as np
from napari.layers import Labels

from napari_mambaseg._entrance import Entrance, put_off_tools


def grid(**options: Any) -> Labels:
    return Labels(np.eye(20, dtype=np.uint8), scale=(3.0, 2.0), translate=(5, 7), **options)


def outlines(viewer: Any, layer: Labels) -> dict[str, list[list[float]]]:
    """Where napari draws the outlines of a layer's brush and polygon, by their class."""
    visuals = viewer.window._qt_viewer.canvas._layer_overlay_to_visual[layer]
    return {type(overlay).__name__: np.asarray(visual.node.transform.matrix).tolist()
            for overlay, visual in visuals.items()}


def test_layer_is_in_the_list_at_once_and_complete_soon(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    plain = viewer.add_layer(grid(name="plain"))
    layer = grid(name="gentle")
    entrance = Entrance(viewer)
    entrance.add(layer)
    assert viewer.layers[-1].name == "gentle"
    assert not layer.visible
    expected = outlines(viewer, plain)
    assert len(expected) == 2
    qtbot.waitUntil(lambda: outlines(viewer, layer) == expected, timeout=20_000)  # not half a voxel beside it
    assert layer.visible


def test_layer_that_is_taken_away_meanwhile_stays_away(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    gone, stays = grid(name="gone"), grid(name="stays")
    entrance = Entrance(viewer)
    for layer in (gone, stays):
        entrance.add(layer)
    viewer.layers.remove("gone")
    qtbot.waitUntil(lambda: bool(stays.visible), timeout=20_000)
    assert not gone.visible
    entrance.close()
    viewer.close()
    qtbot.wait(100)  # nothing acts on a window that is gone


def test_tools_of_what_is_never_painted_on_are_not_drawn_up(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    layer = grid()
    put_off_tools(layer)
    viewer.add_layer(layer)
    assert outlines(viewer, layer) == {}
