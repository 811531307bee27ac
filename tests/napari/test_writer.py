"""Saving from napari: the file lies where the layer lies, and what ran is beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mambaseg import io
from napari_mambaseg._writer import RECORD


@pytest.fixture
def saved(make_napari_viewer: Any, tmp_path: Path) -> Any:
    """Saves a layer as the menu does, by the layer's own `save`."""
    viewer = make_napari_viewer()

    def save(name: str, labels: Any, **options: Any) -> Path:
        layer = viewer.add_labels(labels, **options)
        layer.save(str(tmp_path / name), plugin="mambaseg")
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", ["cells.ome.tif", "cells.nii.gz", "cells.nrrd", "cells.mha"])
def test_volume_keeps_labels_spacing_and_unit(saved: Any, name: str) -> None:
    labels = np.random.default_rng(0).integers(0, 400, (5, 6, 7))
    read = io.read_labels(saved(name, labels, scale=(2, 0.5, 0.25), units=("mm",) * 3))
    np.testing.assert_array_equal(read.data, labels)
    assert read.grid.spacing == pytest.approx((2, 0.5, 0.25), rel=1e-6)
    assert read.grid.unit == "mm"


def test_position_and_direction_are_the_layers(saved: Any) -> None:
    turn = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    path = saved("cells.nrrd", np.ones((5, 6, 7), int), scale=(2, 0.5, 0.25), translate=(10, 20, 30), rotate=turn,
                 units=("mm",) * 3)
    grid = io.read_labels(path).grid
    assert grid.origin_xyz == pytest.approx((30, 20, 10))
    voxel_zyx = np.array([1.0, 2, 3])
    world_zyx = turn @ (voxel_zyx * (2, 0.5, 0.25)) + (10, 20, 30)
    np.testing.assert_allclose((grid.affine_xyz @ [*voxel_zyx[::-1], 1])[:3], world_zyx[::-1])


def test_record_and_table_lie_beside_the_labels(saved: Any, tmp_path: Path) -> None:
    record = {"model": {"name": "nuclei-2d"}, "layer": {"name": "cells", "axes": "TYX"}}
    table = pd.DataFrame({"index": [1, 2], "area_px": [3.0, 4.0]})
    path = saved("cells.ome.tif", np.arange(24).reshape(2, 3, 4), metadata={RECORD: record}, features=table)
    assert io.read_labels(path).axes == "TYX"
    assert json.loads((tmp_path / "cells_record.json").read_text(encoding="utf-8")) == record
    assert (tmp_path / "cells_features.csv").read_text(encoding="utf-8") == "index,area_px\n1,3.0\n2,4.0\n"
