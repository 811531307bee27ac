"""Draws the README's pictures of the napari plugin into docs/images; nothing in them but what comes with packages.

Run it as tools/with-display .venv/bin/python docs/screenshots.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

IMAGES = Path(__file__).parent / "images"
WINDOW = (1280, 720)
DOCK_PX = 300
PATIENCE_S = 900


def main() -> None:
    """The panel while it works, in the light theme, and with its result, in the dark one."""
    IMAGES.mkdir(exist_ok=True)
    os.environ["MAMBASEG_DATA"] = tempfile.mkdtemp()  # no corrections of an earlier day
    viewer, panel = open_window("light")
    wait_until(lambda: panel.segment.estimate.text().startswith("Will take about"))
    panel.run()
    wait_until(lambda: "Window 4" in panel.segment.run_bar.progress_line.text())
    wait(0.3)
    save(viewer, "napari-running")
    wait_until(lambda: not panel.segmenter.is_busy)
    viewer.theme = "dark"
    viewer.scene.camera.zoom *= 1.6
    panel.segmenter.latest.layer.contour = 2
    panel.segmenter.latest.layer.opacity = 1.0
    wait_until(lambda: panel.segment.estimate.text().startswith("Will take about"))
    save(viewer, "napari-result")
    correct(viewer, panel)
    save(viewer, "napari-correct")
    viewer.close()


def correct(viewer: Any, panel: Any) -> None:
    """A few strokes in the result, and the rest of the view said to be right."""
    teaching = panel.teaching
    wait_until(lambda: teaching.corrector.current is not None)
    layer = teaching.corrector.current.layer
    panel.segment.head.setChecked(False)
    layer.contour, layer.opacity, layer.mode, layer.brush_size = 0, 0.55, "paint", 9
    for number in range(20, 200, 15):
        y, x = np.argwhere(layer.data == number).mean(0)
        layer.paint((y, x + 3), number)
    wait_until(lambda: not teaching.adapter.is_busy)
    teaching.confirm()
    wait(1.0)  # until it has begun to adapt
    wait_until(lambda: not teaching.corrector.background.is_busy and not teaching.adapter.is_busy)


def open_window(theme: str) -> tuple[Any, Any]:
    """A viewer with the tissue sample and the panel."""
    viewer = napari.Viewer()
    viewer.theme = theme
    viewer.window._qt_window.resize(*WINDOW)
    viewer.open_sample("mambaseg", "tissue")
    dock, panel = viewer.window.add_plugin_dock_widget("mambaseg", "Segment with U-Mamba")
    wait(0.5)
    viewer.window._qt_window.resizeDocks([dock], [DOCK_PX], Qt.Orientation.Horizontal)
    wait(0.5)
    viewer.reset_view()
    return viewer, panel


def wait(seconds: float) -> None:
    """Let the window live for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def wait_until(holds: Callable[[], bool]) -> None:
    """Let the window live until something holds.

    Raises
    ------
    TimeoutError : it never did
    """
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened in {PATIENCE_S} s")
        wait(0.05)


def save(viewer: Any, name: str) -> None:
    """The whole window as a small WebP."""
    wait(0.5)
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    Image.fromarray(pixels[..., :3]).save(IMAGES / f"{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
