"""What napari's own menus offer: found in the really opened menus, and triggered."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel, QMenu, QWidget


@pytest.fixture
def opened(qtbot: Any) -> Callable[..., QMenu]:
    """Opens a menu and those below it by their titles, as a user does; a menu fills only while it opens."""
    def walk(viewer: Any, *titles: str) -> QMenu:
        bar = viewer.window._qt_window.menuBar()
        actions = bar.actions()
        menu: Any = None
        for title in titles:
            if menu is not None:
                menu.popup(QPoint(20, 20))
                actions = menu.actions()
                menu.close()
            found = [action for action in actions if action.text().replace("&", "") == title]
            assert found, f"{title} is not among {[action.text() for action in actions]}"
            menu = found[0].menu() or found[0]
        return menu

    return walk


def test_segment_menu_opens_the_panel(make_napari_viewer: Any, worker: Any, opened: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)
    entry = opened(viewer, "Layers", "Segment", "Segment with U-Mamba (MambaSeg)")
    entry.trigger()
    docked = viewer.window._qt_window.findChild(QWidget, "mambaseg")
    qtbot.waitUntil(docked.isVisible)
    assert docked.findChild(QWidget, "run") is not None
    dock = next(each for each in viewer.window._qt_window.findChildren(QDockWidget) if each.isAncestorOf(docked))
    titles = [title.text() for title in dock.titleBarWidget().findChildren(QLabel)]
    assert "Segment with U-Mamba" in titles  # without the plugin's name, for which a narrow dock has no room


def test_plugins_menu_opens_the_panel(make_napari_viewer: Any, worker: Any, opened: Any) -> None:
    viewer = make_napari_viewer(show=True)
    opened(viewer, "Plugins", "MambaSeg", "Segment with U-Mamba (MambaSeg)").trigger()
    assert viewer.window._qt_window.findChild(QWidget, "mambaseg") is not None


@pytest.mark.parametrize(("title", "shape", "axes"), [
    ("Nuclei in tissue", (512, 512, 3), None),
    ("Cells over time (drawn)", (6, 256, 256), ("t", "y", "x")),
    ("Stack of nuclei (drawn)", (24, 192, 192), ("z", "y", "x")),
])
def test_samples_open_from_the_file_menu(make_napari_viewer: Any, opened: Any, title: str, shape: tuple[int, ...],
                                         axes: tuple[str, ...] | None) -> None:
    viewer = make_napari_viewer()
    opened(viewer, "File", "Open Sample", "MambaSeg", title).trigger()
    layer = viewer.layers[0]
    assert layer.data.shape == shape
    assert axes in (None, layer.axis_labels)
    assert np.ptp(layer.data) > 50


def test_control_return_runs_what_is_chosen(window: Any, models: Any, qtbot: Any) -> None:
    shown = window(show=True)
    shown.viewer.add_image(np.random.default_rng(0).random((40, 40)))
    shown.choose_model(models(channels=("grey",)))
    canvas = shown.viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    QApplication.processEvents()
    qtbot.keyClick(canvas, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert shown.panel.segmenter.is_busy
    shown.wait()
    assert shown.panel.segmenter.latest is not None
