"""Saving what was corrected, through the file dialog: labels, table and record as they are now."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtWidgets import QFileDialog

from mambaseg import io
from napari_mambaseg._adapt import source_of
from napari_mambaseg._saving import _measure


@pytest.fixture
def save(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Press the button, type a path, and what the card says then; and what the dialog proposed."""
    def press(shown: Any, path: Path) -> tuple[str, Path]:
        proposed: list[Path] = []

        def ask(parent: Any, title: str, start: str, formats: str) -> tuple[str, str]:
            proposed.append(Path(start))
            return str(path), formats

        monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
        shown.window.click("save")
        message = shown.window["correct_message"]
        shown.qtbot.waitUntil(lambda: message.text().startswith("Saved "), timeout=20_000)
        return message.text(), proposed[0]

    return press


def test_corrected_labels_come_with_a_table_of_what_they_are_now(desk: Any, save: Any, tmp_path: Path) -> None:
    shown = desk("instances", scale=(0.5, 0.5), units=("um", "um"))
    labels = np.zeros((64, 64), int)
    labels[20:30, 10:50], labels[40:44, 5:10] = 7, 9
    shown.layer.data[:] = labels
    shown.layer.refresh()
    shown.settle()
    said, proposed = save(shown, tmp_path / "mine")
    assert proposed.name == "cells_labels.ome.tif"
    assert said == "Saved mine.ome.tif, mine_record.json and mine_features.csv."
    read = io.read_labels(tmp_path / "mine.ome.tif")
    np.testing.assert_array_equal(read.data, labels)
    assert (read.grid.spacing, read.grid.unit) == ((0.5, 0.5), "um")
    table = pd.read_csv(tmp_path / "mine_features.csv")
    assert table["index"].tolist() == [7, 9]
    assert table["area_um2"].tolist() == [400 * 0.25, 20 * 0.25]
    picture = shown.window.viewer.layers["cells"].data
    assert table["mean_intensity"].tolist() == pytest.approx([picture[labels == number].mean() for number in (7, 9)])
    record = json.loads((tmp_path / "mine_record.json").read_text(encoding="utf-8"))
    assert record["model"]["kind"] == "instances"


def test_labels_as_found_keep_the_table_of_the_run(desk: Any, save: Any, tmp_path: Path) -> None:
    shown = desk("instances")
    save(shown, tmp_path / "found.nii.gz")
    table = pd.read_csv(tmp_path / "found_features.csv")
    assert table["index"].tolist() == list(range(1, shown.layer.data.max() + 1))
    assert "confidence" in table.columns


def test_objects_of_time_points_are_measured_one_by_one(make_napari_viewer: Any) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    image = make_napari_viewer().add_image(values, axis_labels=("t", "y", "x"))
    labels = np.zeros((2, 3, 4), int)
    labels[0, 0, :2], labels[1, 2, 3] = 1, 1
    table = _measure(labels, source_of(image))
    assert table[["index", "frame", "area_px", "mean_intensity"]].values.tolist() == [[1, 0, 2, 0.5], [1, 1, 1, 23.0]]
