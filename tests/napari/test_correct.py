"""Correcting with real mouse strokes: what is in the journal is what the layer shows, whatever the user does."""

import dataclasses
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from mambaseg import UserError, words
from mambaseg.learn import Project, identify, project_of
from mambaseg.learn.corrections import CONFIRMED, CORRECTED
from mambaseg.learn.journal import JournalError
from napari_mambaseg._adapt import source_of, to_image
from napari_mambaseg._corrections import _in_memory
from napari_mambaseg._objects import merge_objects, split_object
from napari_mambaseg._writer import RECORD


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences that napari was asked to show as errors."""
    seen: list[str] = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda notification: seen.append(notification.message))
    return seen


def strokes(desk: Any) -> list[str]:
    journal = desk.picture.project.journal
    return [stroke.tool for stroke in journal.strokes() if stroke.tool != "prediction"]


def test_strokes_are_in_the_journal_before_the_next_event(desk: Any) -> None:
    shown = desk()
    before = shown.layer.data.copy()
    shown.layer.selected_label, shown.layer.brush_size = 2, 5
    shown.layer.mode = "paint"
    shown.drag((10, 10), (10, 20), (10, 30))
    assert strokes(shown) == ["paint"]  # at once: nothing was waited for
    assert (shown.layer.data[9:12, 10:30] == 2).all()
    np.testing.assert_array_equal(shown.picture.image.labels(), shown.layer.data)
    shown.layer.mode = "erase"
    shown.drag((10, 12), (10, 15))
    assert not shown.layer.data[10, 12:16].any()
    np.testing.assert_array_equal(shown.picture.image.labels(), shown.layer.data)
    shown.layer.mode = "fill"
    shown.click(40, 40)
    shown.layer.mode, shown.layer.selected_label = "polygon", 1
    for place in ((50, 10), (50, 30), (60, 30)):
        shown.click(*place)
    shown.press(Qt.Key.Key_Return)
    assert (shown.layer.data[52, 27:29] == 1).all()
    shown.assert_kept()
    assert shown.picture.image.corrections().counts().n_corrected > 0
    assert not np.array_equal(before, shown.layer.data)


def test_undo_redo_and_scripts_are_followed(desk: Any) -> None:
    shown = desk()
    layer = shown.layer
    found = layer.data.copy()
    layer.selected_label, layer.mode, layer.brush_size = 2, "paint", 7
    shown.drag((20, 20), (20, 40))
    painted = layer.data.copy()
    shown.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data, found)
    shown.assert_kept()
    assert shown.picture.image.corrections().is_empty  # what was undone was no correction
    layer.redo()
    np.testing.assert_array_equal(layer.data, painted)
    shown.assert_kept()
    layer.data[50:55, 50:55] = 1
    layer.refresh()
    shown.assert_kept()
    layer.data = np.where(found == 1, 2, found)
    shown.assert_kept()
    assert len(strokes(shown)) >= 5
    shown.window.viewer.add_labels(np.zeros_like(found)).data[:] = 1  # of another layer nothing is kept
    shown.assert_kept()


def test_strokes_in_a_stack_are_kept_slice_by_slice(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_mambaseg._corrections._AT_ONCE", 1000)  # as if it were large
    monkeypatch.setattr("napari_mambaseg._corrections._PIECE", 1000)
    shown = desk(picture=np.random.default_rng(0).random((6, 40, 40)), axis_labels=("z", "y", "x"))
    layer, dims = shown.layer, shown.window.viewer.dims
    layer.selected_label, layer.mode, layer.brush_size = 2, "paint", 5
    dims.set_point(0, 3)
    shown.drag((10, 10), (10, 30))
    assert (layer.data[3, 9:12, 12:28] == 2).all()
    np.testing.assert_array_equal(shown.picture.image.labels(), layer.data)
    dims.set_point(0, 1)
    layer.undo()  # in a slice that is not in view
    layer.n_edit_dimensions = 3
    shown.drag((25, 10), (25, 30))
    assert (layer.data[0:3, 25, 12:28] == 2).all()
    shown.assert_kept()


def test_locked_labels_survive_segmenting_again(desk: Any) -> None:
    shown = desk("instances")
    first = shown.layer
    first.selected_label, first.mode, first.brush_size = int(first.data.max()) + 1, "paint", 9
    shown.drag((20, 20), (20, 40))
    number, drawn = first.selected_label, first.data == first.selected_label
    shown.settle()
    shown.qtbot.waitUntil(lambda: not shown.window["counts"].text().startswith("0 corrected"), timeout=20_000)
    shown.qtbot.waitUntil(lambda: shown.picture.rims in shown.window.viewer.layers, timeout=20_000)
    assert shown.picture.rims.data[drawn].all()
    shown.window.segment()
    shown.settle()
    assert shown.layer != first
    assert shown.layer.editable
    assert (shown.layer.data[drawn] == number).all()
    assert first not in shown.window.viewer.layers
    shown.assert_kept()
    shown.window["locked"].setChecked(False)
    shown.window.segment()
    shown.settle()
    assert not (shown.layer.data[drawn] == number).all()
    assert shown.picture.image.corrections().is_empty


def test_undo_of_a_segmentation_goes_on_with_what_it_replaced(desk: Any) -> None:
    shown = desk()
    first = shown.layer
    first.selected_label, first.mode = 2, "paint"
    shown.drag((20, 20), (20, 40))
    shown.window.segment()
    shown.settle()
    shown.window.panel.segmenter.undo()
    shown.settle()
    assert shown.layer == first
    shown.drag((40, 20), (40, 40))
    shown.assert_kept()


def test_a_drawn_region_is_confirmed_and_what_is_in_view(desk: Any) -> None:
    shown = desk()
    viewer = shown.window.viewer
    drawn = viewer.add_shapes([[[10, 10], [10, 29], [29, 29], [29, 10]]], shape_type="rectangle")
    viewer.layers.selection.active = drawn
    shown.window.click("confirm")
    state = shown.picture.image.corrections().state
    assert (state[11:29, 11:29] == CONFIRMED).all()
    assert not state[40:].any()
    viewer.layers.selection.active = shown.layer
    shown.press(Qt.Key.Key_C)
    (_, left), (_, right) = shown.layer.corner_pixels
    assert right - left > 40  # nearly all of it is in view
    state = shown.picture.image.corrections().state
    assert (state[:, left:right + 1] == CONFIRMED).all()
    shown.settle()
    shown.qtbot.waitUntil(lambda: "1 confirmed" in shown.window["counts"].text(), timeout=20_000)


def test_tour_of_what_it_is_unsure_of(desk: Any) -> None:
    shown = desk("instances")
    card, tour = shown.window.panel.correct, shown.teaching.tour
    shown.window.viewer.layers.selection.active = shown.layer
    shown.press(Qt.Key.Key_U)
    shown.qtbot.waitUntil(lambda: tour.is_on, timeout=20_000)
    line = card.unsure_line.text()
    assert line.startswith("1 of ")
    first = tour.stop
    camera = getattr(shown.window.viewer, "scene", shown.window.viewer).camera
    middle = [(side.start + side.stop - 1) / 2 for side in first.box]
    assert camera.center[-2:] == pytest.approx(middle, abs=0.6)
    shown.press(Qt.Key.Key_Return)  # it is right
    corrections = shown.picture.image.corrections()
    assert (corrections.state == CONFIRMED).any()
    assert not (corrections.state == CORRECTED).any()
    assert tour.stop is not first
    second = tour.stop
    n_known = np.count_nonzero(shown.picture.image.corrections().locked)
    shown.press(Qt.Key.Key_Escape)  # skipped: nothing is said about it
    assert tour.stop is not second
    assert np.count_nonzero(shown.picture.image.corrections().locked) == n_known
    while tour.is_on:
        shown.press(Qt.Key.Key_Escape)
    assert card.unsure.text() == "Show me where it is unsure"
    assert "unsure" not in [layer.name for layer in shown.window.viewer.layers]
    assert card.message.text() == "It is sure everywhere, or you have looked at all of it."


def test_tour_where_all_was_looked_at_says_so(desk: Any) -> None:
    shown = desk("instances")
    shown.press(Qt.Key.Key_C)
    shown.settle()
    shown.teaching.corrector.confirm(shown.picture, (slice(None), slice(None)))
    shown.settle()
    shown.window.click("unsure")
    shown.qtbot.waitUntil(lambda: shown.window.panel.correct.message.text().startswith("It is sure everywhere"),
                          timeout=20_000)
    assert shown.window.panel.correct.message.isVisible()


def test_split_and_merge_by_two_clicks(desk: Any) -> None:
    shown = desk("instances")
    shown.layer.data[:] = 0
    shown.layer.data[20:30, 10:50] = 7
    shown.layer.refresh()
    shown.settle()
    shown.window.viewer.layers.selection.active = shown.layer
    shown.window.click("split_objects")
    shown.click(25, 15)
    shown.click(25, 45)
    assert sorted(np.unique(shown.layer.data)) == [0, 7, 8]
    assert (shown.layer.data[25, 12:27] == 7).all()
    assert (shown.layer.data[25, 33:48] == 8).all()
    assert not shown.window["split_objects"].isChecked()
    about = shown.window["about_correcting"]
    shown.qtbot.waitUntil(lambda: about.text().startswith("2 objects. "), timeout=20_000)
    shown.layer.undo()
    assert sorted(np.unique(shown.layer.data)) == [0, 7]
    shown.qtbot.waitUntil(lambda: about.text().startswith("1 object. "), timeout=20_000)
    shown.layer.redo()
    shown.window.click("merge_objects")
    shown.click(25, 15)
    shown.click(25, 45)
    assert sorted(np.unique(shown.layer.data)) == [0, 7]
    shown.assert_kept()


def test_split_needs_one_object_and_merge_two() -> None:
    labels = np.array([[1, 1, 0, 2]])
    with pytest.raises(UserError, match="two places in the same cell"):
        split_object(labels, [(0, 0), (0, 3)])
    with pytest.raises(UserError, match="two cells, one after the other"):
        merge_objects(labels, [(0, 0), (0, 1)])


def test_a_stroke_adapts_the_rest_and_keeps_what_was_drawn(desk: Any) -> None:
    shown = desk(adapt=True)
    layer, adapter = shown.layer, shown.teaching.adapter
    found = layer.data.copy()
    layer.selected_label = int(np.bincount(found.ravel(), minlength=3)[1:].argmin()) + 1
    layer.mode, layer.brush_size = "paint", 20
    shown.drag((20, 20), (20, 40))
    drawn = layer.data != found
    assert drawn.any()
    shown.qtbot.waitUntil(lambda: not adapter.is_busy, timeout=300_000)
    shown.settle()
    assert (layer.data[drawn] == layer.selected_label).all()
    assert (layer.data != found)[~drawn].any()  # and the rest has learned from it
    shown.assert_kept()
    np.testing.assert_array_equal(shown.picture.image.corrections().locked, drawn)
    shown.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data[drawn], found[drawn])
    assert shown.picture.image.corrections().is_empty  # what was undone was no correction, whatever was learned from it
    assert "undo" in strokes(shown)
    shown.qtbot.waitUntil(lambda: not adapter.is_busy, timeout=300_000)
    np.testing.assert_array_equal(layer.data, found)  # and nothing is learned from it any more
    shown.assert_kept()
    layer.redo()
    shown.settle()
    np.testing.assert_array_equal(shown.picture.image.corrections().locked, drawn)


def test_the_view_is_known_before_the_first_stroke(desk: Any) -> None:
    shown = desk(adapt=True)
    adapter, said = shown.teaching.adapter, []
    shown.qtbot.waitUntil(lambda: adapter.is_ready, timeout=300_000)
    assert shown.picture.image.corrections().is_empty  # looking changes nothing
    adapter.told.connect(said.append)
    shown.layer.selected_label, shown.layer.mode, shown.layer.brush_size = 2, "paint", 20
    shown.drag((20, 20), (20, 40))
    shown.qtbot.waitUntil(lambda: bool(said), timeout=20_000)
    assert said[0] == "Adapting…"  # and not a look at the picture first


def test_full_disk_is_told_once_and_nothing_is_forgotten(desk: Any, problems: list[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    shown = desk()
    database = shown.picture.project.journal.database
    full = "There is no room for the strokes; make room."

    @contextmanager
    def no_room(n_bytes: int = 0) -> Any:
        raise JournalError(full)
        yield

    shown.layer.selected_label, shown.layer.mode = 2, "paint"
    with monkeypatch.context() as broken:
        broken.setattr(database, "transaction", no_room)
        shown.drag((20, 20), (20, 40))
        shown.drag((30, 20), (30, 40))
        assert problems == [full]
        assert shown.window["saved"].text() == "Not saved"
    shown.drag((40, 20), (40, 40))
    shown.assert_kept()
    assert shown.window["saved"].text() == "Saved just now"


def test_what_should_not_happen_can_be_reported(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(notification_manager, "dispatch", seen.append)
    shown = desk()
    monkeypatch.setattr(type(shown.picture.image), "corrections", lambda self: 1 / 0)
    shown.corrector.recount()
    shown.qtbot.waitUntil(lambda: bool(seen), timeout=20_000)
    assert seen[0].message == words.WENT_WRONG
    (button, copy), = seen[0].actions
    assert button == "Copy details"
    copy()
    assert "ZeroDivisionError" in QApplication.clipboard().text()


def test_labels_from_elsewhere_can_be_corrected_if_they_fit(desk: Any, problems: list[str]) -> None:
    shown = desk()
    viewer = shown.window.viewer
    viewer.add_labels(np.ones((5, 6), int), name="small")
    shown.window.click("adopt")
    assert problems == ["small is 5 x 6 voxels, but cells is 64 x 64; choose the labels that belong to the image."]
    mine = viewer.add_labels(np.ones((64, 64), int), name="mine")
    shown.window.click("adopt")
    shown.qtbot.waitUntil(lambda: shown.layer == mine, timeout=20_000)
    mine.selected_label, mine.mode = 2, "paint"
    shown.drag((20, 20), (20, 40))
    shown.assert_kept()


def test_work_goes_on_where_it_stopped(desk: Any, window: Any) -> None:
    shown = desk()
    shown.layer.selected_label, shown.layer.mode = 2, "paint"
    shown.drag((20, 20), (20, 40))
    left, picture = shown.layer.data.copy(), shown.window.viewer.layers["cells"].data
    record = shown.layer.metadata[RECORD]
    shown.window.viewer.close()
    again = window(show=True)
    assert not again["go_on"].isVisible()
    again.viewer.add_image(picture, name="cells again")
    again.qtbot.waitUntil(again["go_on"].isVisible, timeout=20_000)
    assert again["resume_line"].text().startswith("You have corrected this picture before on ")
    again.click("go_on")
    layer = again.panel.teaching.corrector.current.layer
    np.testing.assert_array_equal(layer.data, left)
    assert layer.metadata[RECORD] == record
    assert again["resume"].isHidden()
    layer.paint((50, 50), 1)  # a script's stroke is told before its voxels change, so it is kept a moment later
    kept = again.panel.teaching.corrector.current.image
    again.qtbot.waitUntil(lambda: np.array_equal(kept.labels(), layer.data), timeout=20_000)
    assert (layer.data != left).any()


def test_lazy_picture_is_read_once_and_not_if_it_is_too_large(make_napari_viewer: Any) -> None:
    da = pytest.importorskip("dask.array")
    reads: list[tuple[int, ...]] = []

    def read(block: Any) -> Any:
        reads.append(block.shape)
        return block

    lazy = da.from_array(np.arange(4096.0).reshape(64, 64), chunks=(16, 64)).map_blocks(read, meta=np.empty((0, 0)))
    viewer = make_napari_viewer()
    source = source_of(viewer.add_image(lazy, contrast_limits=(0, 1)))
    del reads[:]
    loaded = _in_memory(source)
    assert len(reads) == 4
    np.testing.assert_array_equal(loaded.array, np.arange(4096.0).reshape(64, 64))
    large = da.zeros((40_000, 40_000), chunks=512, dtype=np.uint16)
    with pytest.raises(UserError, match="big is too large to be corrected: its 3 GB would have to be read"):
        _in_memory(dataclasses.replace(source, name="big", array=large))


_PAINT = """
import sys
import napari, numpy as np
from napari_mambaseg._adapt import source_of
from napari_mambaseg._corrections import Corrector
from napari_mambaseg._segmenter import Order
from napari_mambaseg._where import Part
from mambaseg.models import read_model
from pathlib import Path
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=True)
image = viewer.add_image(np.arange(4096.0).reshape(64, 64), name="cells")
layer = viewer.add_labels(np.zeros((64, 64), np.int32))
corrector = Corrector(viewer)
model = read_model(Path(sys.argv[1]))
corrector.take(layer, Order(source_of(image), Part(), model, sys.argv[1], (0.0, 0.0)), layer.data)
while not corrector.pictures:
    QApplication.processEvents()
for number in range(100_000):
    layer.paint((number // 64 % 64, number % 64), 1 + number % 200)
    print(number, flush=True)
    QApplication.processEvents()
"""


@pytest.mark.slow
def test_killed_while_painting_nothing_is_lost(models: Any, tmp_path: Path) -> None:
    """A viewer of its own paints one voxel after the other and says so; kill -9 at three moments."""
    from napari.layers import Image

    script = tmp_path / "paint.py"
    script.write_text(_PAINT, encoding="utf-8")
    folder = models(channels=("grey",), kind="classes")
    for n_strokes in (1, 20, 90):
        with subprocess.Popen([sys.executable, "-W", "ignore", script, folder], stdout=subprocess.PIPE,
                              text=True) as child:
            said = -1
            while said < n_strokes:
                said = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
        identity = identify(to_image(source_of(Image(np.arange(4096.0).reshape(64, 64), name="cells"))))
        project = Project.open(project_of(identity) or Path())
        labels = project.image(identity).labels()
        project.close()
        assert labels.ravel()[:said + 1].all()
        assert np.count_nonzero(labels) >= said + 1
