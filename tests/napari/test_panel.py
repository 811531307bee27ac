"""The panel as a user meets it: real clicks, real results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QSlider, QTableView
from skimage import data

import mambaseg
from napari_mambaseg._writer import RECORD


@pytest.fixture(scope="session")
def picture() -> Any:
    """A corner of a real picture of tissue."""
    return data.immunohistochemistry()[100:292, 150:342]


def test_labels_are_those_of_python_voxel_for_voxel(window: Any, picture: Any) -> None:
    shown = window()
    shown.viewer.add_image(picture, name="tissue")
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(picture), "nuclei-2d")
    assert expected.labels.max() > 20
    np.testing.assert_array_equal(layer.data, expected.labels)
    assert layer.features["index"].tolist() == [0, *expected.features["label"]]  # a row for the background
    np.testing.assert_allclose(layer.features["confidence"][1:], expected.features["confidence"])
    assert layer.name == "tissue nuclei"
    assert layer.metadata[RECORD]["model"] == expected.record["model"]
    assert shown["message"].text().startswith(f"{expected.labels.max()} objects in ")


def test_first_run_offers_a_sample(window: Any) -> None:
    shown = window(show=True)
    assert not shown["hint"].isHidden()
    assert not shown["run"].isEnabled()
    shown.click("open_sample")
    assert [layer.name for layer in shown.viewer.layers] == ["tissue"]
    assert shown["hint"].isHidden()
    assert shown["run"].isEnabled()
    assert shown["read_as"].text() == "Read as 2-D, colour, pixel size not known"


def test_model_is_told_in_words(window: Any) -> None:
    shown = window(show=True)
    assert shown["model_line"].text().startswith("Finds nuclei in fluorescence, tissue (H&E)")
    assert shown["model_card"].isHidden()
    shown.click("about_model")
    assert "Licence: Apache-2.0; data CC0-1.0" in shown["model_card"].text()


def test_objects_have_colours_that_neighbours_do_not_share(window: Any, picture: Any) -> None:
    shown = window()
    shown.viewer.add_image(picture)
    layer = shown.segment()
    right, left = layer.data[:, 1:], layer.data[:, :-1]
    touching = (right != left) & (right > 0) & (left > 0)
    assert touching.any()
    pairs = np.unique(np.stack([right[touching], left[touching]], axis=1), axis=0)
    assert all(not np.allclose(layer.get_color(a), layer.get_color(b)) for a, b in pairs.tolist())
    assert layer.get_color(0) is None or layer.get_color(0)[3] == 0
    assert layer.get_color(layer.data.max() + 1)[3] > 0  # what the user adds can be seen


def test_volume_with_classes(window: Any, models: Any) -> None:
    shown = window()
    values = np.random.default_rng(0).random((20, 24, 28)).astype(np.float32)
    image = shown.viewer.add_image(values, scale=(2, 1, 1), translate=(5, 6, 7), units=("mm",) * 3, name="block")
    folder = models(channels=("T1",), ndim=3, kind="classes")
    shown.choose_model(folder)
    assert shown["read_as"].text() == "Read as 3-D, 1 channel, 1.00 x 1.00 x 2.00 mm/voxel"
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(values, "ZYX", (2, 1, 1), "mm"), folder)
    np.testing.assert_array_equal(layer.data, expected.labels)
    np.testing.assert_allclose(layer.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3)))
    assert layer.features["class"].tolist() == ["background", "front", "back"]
    assert shown["decoding"].isHidden()


def test_time_series_has_a_table_for_the_time_point_in_view(window: Any, models: Any) -> None:
    shown = window()
    shown.viewer.open_sample("mambaseg", "cells_over_time")
    series = shown.viewer.layers[0]
    shown.viewer.layers.clear()
    shown.viewer.add_image(series.data[:3, :64, :64], units=series.units, axis_labels=series.axis_labels)
    assert "3 time points" in shown["read_as"].text()
    layer = shown.segment()
    assert "The grey picture was given to the model as red, green and blue alike." in shown["message"].text()
    assert layer.data.shape == (3, 64, 64)
    assert set(layer.features["frame"]) == {0, 1, 2}
    for frame in (1, 0, 2):
        shown.viewer.dims.set_point(0, frame)
        assert layer.features["frame"].iloc[-1] == frame


def test_reading_follows_the_layer(window: Any, models: Any) -> None:
    shown = window()
    image = shown.viewer.add_image(np.random.default_rng(0).random((20, 40, 44)), name="stack")
    assert shown["read_as"].text() == "Read as 3-D, 1 channel, voxel size not known"
    shown["axes"].setCurrentIndex(shown["axes"].findData("TYX"))
    shown["axes"].activated.emit(1)
    assert shown["read_as"].text() == "Read as 2-D, 20 time points, 1 channel, pixel size not known"
    image.scale, image.units = (1, 0.5, 0.5), ("pixel", "um", "um")
    assert shown["read_as"].text() == "Read as 2-D, 20 time points, 1 channel, 0.50 um/px"  # axes are as the user said
    image.data = image.data[0]
    assert shown["read_as"].text() == "Read as 2-D, 1 channel, 0.50 um/px"
    image.name = "another name"
    assert shown["image"].currentText() == "another name"


def test_one_time_point_leaves_the_others_empty(window: Any, models: Any) -> None:
    shown = window()
    values = np.random.default_rng(0).random((4, 40, 44))
    shown.viewer.add_image(values, axis_labels=("t", "y", "x"))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    shown.viewer.dims.set_point(0, 2)
    shown.click("all_frames")
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(values[2]), shown.panel.segment.model.name)
    np.testing.assert_array_equal(layer.data[2], expected.labels)
    assert not layer.data[[0, 1, 3]].any()


def test_region_equals_that_part_of_the_whole(window: Any, picture: Any) -> None:
    shown = window()
    shown.viewer.add_image(picture)
    shown.viewer.add_shapes([[[20, 30], [20, 99], [119, 99], [119, 30]]], shape_type="rectangle")
    shown.click("where_region")
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(picture), "nuclei-2d", roi=[(20, 120), (30, 100)])
    np.testing.assert_array_equal(layer.data, expected.labels)


def test_choosing_a_region_starts_drawing(window: Any, picture: Any) -> None:
    shown = window()
    shown.viewer.add_image(picture)
    shown.click("where_region")
    assert shown.viewer.layers["Region"].mode == "add_rectangle"
    shown.click("run")
    assert "draw a rectangle" in shown["message"].text()
    assert not shown.panel.segmenter.is_busy


def test_channel_can_be_chosen(window: Any, models: Any) -> None:
    shown = window()
    values = np.random.default_rng(0).random((2, 40, 44))
    shown.viewer.add_image(values)
    shown.choose_model(models(channels=("grey",), kind="classes"))
    shown.click("run")
    shown.wait()
    assert "2 channels" in shown["message"].text()
    assert shown["change"].isChecked()  # the choice is there without looking for it
    shown["channel"].setCurrentIndex(2)
    shown["channel"].activated.emit(2)
    assert shown["read_as"].text() == "Read as 2-D, 1 channel, pixel size not known"
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(values[1]), shown.panel.segment.model.name)
    np.testing.assert_array_equal(layer.data, expected.labels)


def test_lazy_multiscale_image(window: Any, models: Any) -> None:
    da = pytest.importorskip("dask.array")
    shown = window()
    values = np.random.default_rng(0).random((80, 96))
    lazy = da.from_array(values, chunks=(32, 32))
    shown.viewer.add_image([lazy, lazy[::2, ::2]], multiscale=True, contrast_limits=(0, 1))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    layer = shown.segment()
    expected = mambaseg.segment(mambaseg.Image.from_array(values), shown.panel.segment.model.name)
    np.testing.assert_array_equal(layer.data, expected.labels)


def test_several_selected_layers_are_segmented_in_turn(window: Any, models: Any) -> None:
    shown = window()
    rng = np.random.default_rng(0)
    layers = [shown.viewer.add_image(rng.random((40, 44)), name=name) for name in ("one", "two")]
    shown.choose_model(models(channels=("grey",), kind="classes"))
    shown.viewer.layers.selection = set(layers)
    assert shown["image"].itemText(2) == "All 2 selected images, in turn"
    shown["image"].setCurrentIndex(2)
    shown.segment()
    assert {layer.name for layer in shown.viewer.layers if isinstance(layer, Labels)} == {
        "one front, back", "two front, back"}


def test_probabilities_become_a_layer(window: Any, models: Any) -> None:
    shown = window()
    values = np.random.default_rng(0).random((40, 44))
    shown.viewer.add_image(values, name="cells", scale=(2, 2))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    shown.click("more")
    shown.click("probabilities")
    shown.segment()
    layer = shown.viewer.layers["cells probability"]
    expected = mambaseg.segment(mambaseg.Image.from_array(values), shown.panel.segment.model.name,
                                keep_probabilities=True)
    np.testing.assert_allclose(layer.data, 1 - expected.probabilities[0], atol=1e-6)
    assert tuple(layer.scale) == (2, 2)


def test_click_in_the_table_selects_the_object(window: Any, models: Any, qtbot: Any) -> None:
    shown = window(show=True)
    shown.viewer.add_image(np.random.default_rng(0).random((96, 96)))
    shown.choose_model(models(channels=("grey",)))
    layer = shown.segment()
    shown.click("table")
    table = shown.viewer.window._qt_window.findChild(QTableView)
    qtbot.waitUntil(table.isVisible)
    numbers = [table.model().index(row, 0).data() for row in range(table.model().rowCount())]
    assert [int(number) for number in numbers] == list(range(layer.data.max() + 1))
    for number in (3, 1):
        place = table.visualRect(table.model().index(number, 1)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        assert layer.selected_label == number


def test_model_used_last_is_offered_first(window: Any, models: Any) -> None:
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    folder = models(channels=("grey",), kind="classes")
    shown.choose_model(folder)
    shown.segment()
    again = window()
    assert again.panel.segment.model.name == folder
    assert again["model"].findText("Nuclei (2-D)") >= 0  # those that come along are there, too


def test_key_shows_outlines_and_back(window: Any, models: Any, qtbot: Any) -> None:
    shown = window(show=True)
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    layer = shown.segment()
    canvas = shown.viewer.window._qt_viewer.canvas.native
    for contour in (2, 0):
        canvas.setFocus()
        qtbot.keyClick(canvas, Qt.Key.Key_O)
        assert layer.contour == contour


def test_replace_add_and_undo(window: Any, models: Any) -> None:
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    first = shown.segment()
    assert not shown["again"].isHidden()
    second = shown.segment()
    assert first not in shown.viewer.layers
    assert second in shown.viewer.layers
    assert second.name == first.name
    shown.click("undo")
    assert first in shown.viewer.layers
    assert second not in shown.viewer.layers
    assert shown["undo"].isHidden()
    third = shown.segment()
    shown["again"].setCurrentIndex(1)
    fourth = shown.segment()
    assert {third, fourth} <= set(shown.viewer.layers)


def test_saved_result_reads_back(window: Any, picture: Any, tmp_path: Path) -> None:
    shown = window()
    shown.viewer.add_image(picture, scale=(0.5, 0.5), units=("um", "um"), name="tissue")
    layer = shown.segment()
    layer.save(str(tmp_path / "tissue.ome.tif"), plugin="mambaseg")
    read = mambaseg.io.read_labels(tmp_path / "tissue.ome.tif")
    np.testing.assert_array_equal(read.data, layer.data)
    assert (read.grid.spacing, read.grid.unit) == ((0.5, 0.5), "um")
    assert (tmp_path / "tissue_record.json").exists()
    assert len((tmp_path / "tissue_features.csv").read_text().splitlines()) == 1 + layer.data.max()


def test_every_control_says_what_it_does_and_is_reached_by_the_keyboard(window: Any) -> None:
    shown = window(show=True)
    shown.viewer.open_sample("mambaseg", "cells_over_time")
    controls = [control for kind in (QAbstractButton, QComboBox, QLineEdit, QSlider)
                for control in shown.panel.findChildren(kind) if control.objectName() and "card" not in
                control.objectName()]
    names = {control.objectName() for control in controls}
    assert {"image", "model", "run", "cancel", "where_view", "change", "tta", "min_size", "split", "undo"} <= names
    assert [control.objectName() for control in controls if len(control.toolTip()) < 10] == []
    assert [control.objectName() for control in controls
            if not control.focusPolicy() & Qt.FocusPolicy.TabFocus] == []


def test_return_presses_the_button_but_not_while_typing(window: Any, qtbot: Any) -> None:
    shown = window(show=True)
    shown.viewer.open_sample("mambaseg", "nuclei_stack")
    shown.click("change")
    shown["spacing"].setFocus()
    qtbot.keyClicks(shown["spacing"], " ")
    qtbot.keyClick(shown["spacing"], Qt.Key.Key_Return)
    assert not shown.panel.segmenter.is_busy
    shown["run"].setFocus()
    qtbot.keyClick(shown["run"], Qt.Key.Key_Return)
    assert shown.panel.segmenter.is_busy
    qtbot.keyClick(shown["cancel"], Qt.Key.Key_Space)
    shown.wait(timeout_s=30)
    assert shown.panel.segmenter.latest is None


def test_panel_fits_a_narrow_dock(window: Any) -> None:
    shown = window(show=True)
    shown.viewer.open_sample("mambaseg", "nuclei_stack")
    for name in ("about_model", "change", "more"):
        shown.click(name)
    card = shown.panel.segment
    assert card.minimumSizeHint().width() <= 280  # a dock of 300 px with its margins and a scroll bar
    assert shown["read_as"].text() == "Read as 3-D, 1 channel, 0.50 x 0.50 x 1.00 um/voxel"
