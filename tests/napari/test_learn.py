"""Learning in the window: from corrections to a judged model that is kept or not, while nothing is ever lost."""

from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from mambaseg.models import read_model
from mambaseg.progress import Progress
from napari_mambaseg._widgets.column import Column

SECONDS = 2.0


@pytest.fixture(autouse=True)
def _short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lesson of a tiny model needs no two minutes."""
    monkeypatch.setattr("napari_mambaseg._learning.MINUTES", SECONDS / 60)


@pytest.fixture
def corrected(desk: Any) -> Any:
    """A window in which half of a picture was corrected and confirmed."""
    rows = np.arange(64)[:, np.newaxis] // 8 % 2
    shown = desk(picture=np.broadcast_to(rows, (64, 64)) + np.random.default_rng(0).normal(0, 0.1, (64, 64)))
    layer = shown.layer
    layer.data[:] = np.where(rows, 2, 1)
    layer.refresh()
    shown.settle()
    return shown


def learn(shown: Any) -> Any:
    """Learn, and what came of it."""
    shown.window.click("learn")
    learner = shown.teaching.learner
    shown.qtbot.waitUntil(lambda: learner.is_busy, timeout=20_000)
    shown.qtbot.waitUntil(lambda: not learner.is_busy, timeout=300_000)
    assert shown.teaching._lesson is not None, shown.window["learn_message"].text()
    return shown.teaching._lesson


def test_a_learned_model_is_kept_and_used_and_left_again(corrected: Any) -> None:
    shown = corrected
    window, teaching = shown.window, shown.teaching
    old = shown.picture.order.model
    lesson = learn(shown)
    assert window["scores"].text().startswith("Before ")
    assert " on " in window["scores"].text()
    assert "former answers" in window["scores"].text()
    assert window["keep"].isDefault() == lesson.is_better
    assert window["discard"].isDefault() != lesson.is_better
    if not lesson.is_better:
        assert "keep the old model" in window["verdict"].text() or "correct more" in window["verdict"].text()
    shown.qtbot.waitUntil(lambda: teaching.learner.can_compare, timeout=60_000)
    layer, other = shown.layer, teaching.learner._other
    canvas = window.viewer.window._qt_viewer.canvas.native
    window.viewer.layers.selection.active = layer
    canvas.setFocus()
    shown.qtbot.keyPress(canvas, Qt.Key.Key_B)
    assert (layer.visible, other.visible) == (False, True)
    shown.qtbot.keyRelease(canvas, Qt.Key.Key_B)
    QApplication.processEvents()
    assert (layer.visible, other.visible) == (True, False)
    window.click("keep")
    window.wait()
    shown.settle()
    new = shown.picture.order.model
    assert new.parent == {"name": old.name, "checksum": old.checksum}
    assert window.panel.segment.model.model.checksum == new.checksum
    assert other not in window.viewer.layers
    shown.assert_kept()
    assert "mine, " in window["models"].text()
    window.panel.learn.chosen.emit(1)  # the first of the line is clicked
    window.wait()
    shown.settle()
    assert shown.picture.order.model.checksum == old.checksum
    assert [version.state for version in shown.picture.project.lineage.versions()] == ["kept", "kept"]


def test_all_open_pictures_teach_and_a_closed_one_is_missed(corrected: Any) -> None:
    shown = corrected
    window = shown.window
    first = shown.picture
    values = np.random.default_rng(1).normal(0.5, 0.5, (64, 64))
    layer = window.viewer.add_image(values, name="more cells")
    window.viewer.layers.selection.active = layer
    shown.segment()
    shown.qtbot.waitUntil(lambda: shown.picture is not first, timeout=60_000)
    second = shown.picture
    assert second.project is first.project
    second.layer.data[:8] = 1
    second.layer.data[8:16] = 2
    second.layer.refresh()
    shown.settle()
    both = {first.image.identity.checksum, second.image.identity.checksum}
    assert set(learn(shown).version.learned_from["images"]) == both
    assert "not open" not in window["verdict"].text()
    window.click("keep")
    window.wait()
    shown.settle()
    lesson = learn(shown)  # the first picture still shows what the former model found
    assert first.order.model.checksum != shown.picture.order.model.checksum
    assert set(lesson.version.learned_from["images"]) == both
    window.click("discard")
    window.viewer.layers.remove(first.layer)
    lesson = learn(shown)
    assert lesson.version.learned_from["images"] == [second.image.identity.checksum]
    assert ("1 corrected picture of this project is not open, so nothing was learned from it."
            in window["verdict"].text())
    column, = window.panel.findChildren(Column)
    assert column.horizontalScrollBar().maximum() == 0, "the cards fit into the dock as napari opens it"


def test_going_back_leaves_no_trace_of_the_new_model(corrected: Any) -> None:
    shown = corrected
    learn(shown)
    shown.window.click("discard")
    lineage = shown.picture.project.lineage
    assert len(lineage.versions()) == 1
    assert len(list(lineage.folder.iterdir())) == 1
    assert shown.window["learn"].isVisible()


def test_stopping_keeps_the_best_so_far(corrected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_mambaseg._learning.MINUTES", 30)
    shown = corrected
    learner, seen = shown.teaching.learner, []
    learner.progressed.connect(lambda update: seen.append(update.stage))
    shown.window.click("learn")
    shown.qtbot.waitUntil(lambda: seen.count("Training") > 4, timeout=300_000)
    assert len(shown.window["curve"].values) > 2
    assert shown.window["learning_line"].text().startswith("Round ")
    shown.window.click("stop")
    shown.qtbot.waitUntil(lambda: not learner.is_busy, timeout=300_000)
    assert shown.teaching._lesson is not None
    assert shown.window["keep"].isVisible()


def test_window_closed_in_mid_learning_loses_neither_strokes_nor_model(corrected: Any, monkeypatch: Any,
                                                                       window: Any) -> None:
    monkeypatch.setattr("napari_mambaseg._learning.MINUTES", 30)
    shown = corrected
    seen: list[Progress] = []
    shown.teaching.learner.progressed.connect(seen.append)
    shown.window.click("learn")
    shown.qtbot.waitUntil(lambda: any(update.stage == "Training" for update in seen), timeout=300_000)
    left, picture = shown.layer.data.copy(), shown.window.viewer.layers["cells"].data
    project = shown.picture.project.folder
    shown.window.viewer.close()
    QApplication.processEvents()
    again = window(show=True)
    again.viewer.add_image(picture, name="cells")
    again.qtbot.waitUntil(again["go_on"].isVisible, timeout=30_000)
    again.click("go_on")
    current = again.panel.teaching.corrector.current
    np.testing.assert_array_equal(current.layer.data, left)
    assert current.project.folder == project
    versions = current.project.lineage.versions()
    assert len(versions) == 1  # the old model, whole
    assert read_model(current.project.lineage.path(versions[0])).checksum == versions[0].checksum


def test_a_label_that_the_model_lacks_gets_a_name_first(corrected: Any) -> None:
    shown = corrected
    shown.layer.data[8:16] = 3
    shown.layer.refresh()
    shown.settle()
    shown.window.click("learn")
    names = shown.window["new_classes"]
    shown.qtbot.waitUntil(names.isVisible, timeout=20_000)
    assert "Label 3 is new to Tiny" in shown.window["learn_message"].text()
    assert not shown.teaching.learner.is_busy
    names.setText("middle")
    lesson = learn(shown)
    model = read_model(lesson.project.lineage.path(lesson.version))
    assert model.classes == ("background", "front", "back", "middle")


def test_nothing_to_learn_from_is_one_sentence(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda notification: said.append(notification.message))
    shown = desk()
    shown.press(Qt.Key.Key_L, Qt.KeyboardModifier.ControlModifier)
    shown.qtbot.waitUntil(lambda: bool(said), timeout=60_000)
    assert said == ["Nothing is corrected or confirmed yet; draw in the result or press “This region is right”, then "
                    "learn."]
    assert shown.window["learn_message"].text() == said[0]
