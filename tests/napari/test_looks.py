"""Nothing is cut off in a window of 1280 x 720 with the dock at 300 px, in both themes; and labels are to be seen."""

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QCheckBox, QLabel, QPushButton, QRadioButton, QWidget

from mambaseg import Progress

DOCK_PX = 300


@pytest.fixture
def narrow(window: Any, models: Any, qtbot: Any) -> Any:
    """A window of the smallest size that is promised, with a segmented picture."""
    shown = window(show=True)
    shown.viewer.window._qt_window.resize(1280, 720)
    shown.viewer.add_image(np.random.default_rng(0).random((96, 96)), name="a picture with a rather long name",
                           scale=(0.25, 0.25), units=("um", "um"))
    shown.choose_model(models(channels=("grey",)))
    shown.viewer.window._qt_window.resizeDocks([shown.dock], [DOCK_PX], Qt.Orientation.Horizontal)
    shown.segment()
    qtbot.waitUntil(lambda: bool(shown.panel.teaching.corrector.pictures), timeout=300_000)
    qtbot.waitUntil(lambda: shown["estimate"].text().startswith("Will take about"), timeout=300_000)
    return shown


def cut_off(panel: QWidget) -> list[str]:
    """Texts that are wider, or once wrapped higher, than the room they have."""
    for _ in range(3):  # wrapped lines settle in rounds
        QApplication.processEvents()
    found = []
    for kind in (QLabel, QPushButton, QCheckBox, QRadioButton):
        for widget in panel.findChildren(kind):
            if not widget.isVisible() or not widget.text():
                continue
            if isinstance(widget, QLabel) and widget.wordWrap():
                words = max(widget.fontMetrics().horizontalAdvance(word) for word in widget.text().split())
                fits = widget.heightForWidth(widget.width()) <= widget.height() and (
                    words <= widget.width() or widget.textFormat() == Qt.TextFormat.RichText)
            else:
                fits = widget.minimumSizeHint().width() <= widget.width() and (
                    widget.fontMetrics().horizontalAdvance(widget.text()) <= widget.width())
            if not fits:
                found.append(f"{widget.objectName() or type(widget).__name__}: {widget.text()!r}")
    return found


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_text_is_cut_off(narrow: Any, theme: str) -> None:
    narrow.viewer.theme = theme
    card, panel = narrow.panel.segment, narrow.panel
    assert panel.width() <= DOCK_PX
    assert cut_off(panel) == []
    assert cut_off(narrow.dock.titleBarWidget()) == []
    for name in ("about_model", "change", "more"):
        narrow.click(name)
    assert cut_off(panel) == []
    card.run_bar.show_busy("Copying a picture with a rather long name…")
    card.run_bar.show_progress(Progress("Predicting", 1031, 11200, "", None, 3700.0), 12)
    panel.correct.show_saved(1.0)
    panel.correct.show_place(12, 20)
    panel.correct.show_message("Enter: it is right. Draw: correct it. Esc: skip.")
    panel.correct.adapt_line.setText("Looking closely…")
    panel.learn.show_busy()
    panel.learn.show_progress(Progress("Training", 120, 2000, "loss 0.5", None, 100.0))
    assert cut_off(panel) == []
    panel.learn.show_result(["Before 0.71   After 0.86   on 16 objects kept aside",
                             "Of its former answers 99 % are the same (on its test input)"],
                            "It is better here, but forgot some of what it knew: keep the old model for other images.",
                            is_better=True)
    panel.learn.show_compare(True)
    card.run_bar.show_idle("1,214 objects in 2 min\nThe grey picture was given to the model as red, green and blue.",
                           "details", can_undo=True)
    assert cut_off(panel) == []


def test_long_names_end_in_an_ellipsis_and_the_open_list_shows_them(narrow: Any) -> None:
    box = narrow["image"]
    assert box.currentText() == "a picture with a rather long name"
    assert box.shown_text.endswith("…")
    assert box.fontMetrics().horizontalAdvance(box.shown_text) < box.width()
    box.showPopup()
    assert box.view().viewport().width() >= box.fontMetrics().horizontalAdvance(box.currentText())
    box.hidePopup()


def test_what_learning_says_comes_into_view(narrow: Any, qtbot: Any) -> None:
    panel = narrow.panel
    column = panel.column.verticalScrollBar()
    assert column.maximum() > 0  # the cards are higher than the window
    column.setValue(0)
    panel.teaching.learner.began.emit()
    qtbot.waitUntil(lambda: not panel.learn.stop.visibleRegion().isEmpty(), timeout=20_000)


def test_labels_are_to_be_seen_and_the_panel_is_drawn(narrow: Any) -> None:
    viewer, layer = narrow.viewer, narrow.panel.segmenter.latest.layer
    numbers = np.unique(layer.data)[1:]
    assert len(numbers) > 5
    layer.opacity = 1.0
    for other in viewer.layers:
        other.visible = other is layer
    canvas = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    shown = {tuple(colour) for colour in np.unique(canvas.reshape(-1, 3), axis=0).tolist()}
    expected = {tuple(round(255 * part) for part in layer.get_color(int(number))[:3]) for number in numbers}
    found = [colour for colour in expected if any(max(abs(a - b) for a, b in zip(colour, each, strict=True)) <= 3
                                                  for each in shown)]
    assert len(found) >= min(5, len(expected))
    grabbed = narrow.panel.grab().toImage()
    colours = {grabbed.pixel(x, y) for x in range(0, grabbed.width(), 3) for y in range(0, grabbed.height(), 3)}
    assert len(colours) > 20  # text with soft edges, buttons, background
