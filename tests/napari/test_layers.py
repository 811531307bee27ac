"""What a result's layer says beside its labels."""

from pathlib import Path
from typing import Any

import numpy as np

from mambaseg.models import read_model
from napari_mambaseg._layers import n_objects


def test_table_names_each_class_by_the_label_that_it_is_painted_with(window: Any, tmp_path: Path) -> None:
    from small_models import save_model

    save_model(tmp_path / "model", "umamba-bot", kind="regions",
               about={"regions": ((1, 2), (2,)), "region_order": (2, 1)})
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(str(tmp_path / "model"))
    layer = shown.segment()
    assert layer.features["index"].tolist() == [0, 2, 1]
    assert layer.features["class"].tolist() == ["background", "front", "back"]
    for values, n_voxels in zip(read_model(tmp_path / "model").class_labels, layer.features["voxels"], strict=True):
        assert n_voxels == np.isin(layer.data, values).sum()


def test_objects_of_time_points_are_counted_one_by_one() -> None:
    labels = np.array([[[0, 1, 1, 5]], [[5, 0, 0, 0]]])
    assert n_objects(labels, 0) == 2
    assert n_objects(labels, 1) == 3
