"""The study of learning runs, and its figures are shares and points that mean something."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from mambaseg._errors import DatasetError
from mambaseg.bench import learn
from mambaseg.bench.pictures import bright, phase
from mambaseg.bench.small import train_small
from mambaseg.models import Model
from mambaseg.train.dataset import open_dataset

PROMISED = {"instant_seconds_median", "instant_gap_closed", "thorough_gap_closed_20_objects_60s",
            "thorough_gap_closed_5_objects_20s", "scratch_gap_closed_20_objects_60s", "forgetting_points"}


@pytest.mark.slow
def test_a_quick_study_has_all_figures() -> None:
    said: list[str] = []
    figures = learn.run(quick=True, say=said.append)
    assert set(figures) >= PROMISED
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["trained_on_all_score"] > figures["untouched_score"] + 0.3
    assert figures["thorough_gap_closed_20_objects_60s"] > 0.3
    assert any("untouched" in line for line in said)


def _write_nuclei(folder: Path) -> None:
    """Five fluorescent, four stained and two brightfield pictures, of each kind one held out."""
    cases = [(f"glow{seed}", "fluorescence", bright(seed)) for seed in range(5)]
    cases += [(f"stain{seed}", "histology", phase(seed)) for seed in range(4)]
    cases += [(f"light{seed}", "brightfield", phase(seed)) for seed in (4, 5)]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name, _, (image, labels) in cases:
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{name}.tif", labels.astype(np.uint16))
    names = [name for name, _, _ in cases]
    held_out = ["glow4", "stain3", "light5"]
    (folder / "split.json").write_text(json.dumps({"train": [n for n in names if n not in held_out], "val": held_out}))
    (folder / "dataset.json").write_text(json.dumps({
        "label_type": "instance", "files": [{"id": name, "category": kind} for name, kind, _ in cases]}))


def test_the_model_of_fluorescence_sees_no_other_kind_and_each_of_those_is_a_study(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_nuclei(tmp_path / "nuclei2d")
    nuclei = open_dataset(tmp_path / "nuclei2d", True)
    seen: list[str] = []

    def learn_little(table: Path, network: str, output: Path, **settings: Any) -> Model:
        seen.extend(case.name for case in open_dataset(table, True, fold="all").train)
        return train_small(output, 2)

    monkeypatch.setattr(learn, "train", learn_little)
    monkeypatch.setattr(learn, "_measure", lambda *_: learn._Pace(1.0))
    parent = learn._fluorescence(nuclei, tmp_path)
    assert sorted(seen) == ["glow0", "glow1", "glow2", "glow3"]
    study = learn._nuclei(nuclei, "histology", parent, tmp_path, 3)
    assert [len(each) for each in (study.corrected, study.new, study.old)] == [3, 1, 1]
    assert [len(each) for each in study.corrected] == [1, 1, 1]  # the set has no more for each
    np.testing.assert_array_equal(study.new[0][1], phase(3)[1])
    np.testing.assert_array_equal(study.old[0][1], bright(4)[1])
    study = learn._nuclei(nuclei, "brightfield", parent, tmp_path, 1)
    np.testing.assert_array_equal([study.corrected[0][0][1], study.new[0][1]], [phase(4)[1], phase(5)[1]])


def test_users_go_through_pictures_of_their_own() -> None:
    users = learn._users(range(35), 5)
    assert [pictures[0] for pictures in users] == [0, 7, 14, 21, 28]
    assert [len(pictures) for pictures in users] == [4] * 5
    assert len({picture for pictures in users for picture in pictures}) == 20


def test_corrections_are_shared_out_among_the_pictures(tmp_path: Path) -> None:
    study = learn._drawn(tmp_path, 1, 1)
    for n_pictures, shares in ((1, [20]), (3, [7, 7, 6]), (4, [5, 5, 5, 5])):
        found = study.corrections(0, 20, n_pictures)
        counts = [len(np.unique(each.corrections[each.corrections > 1])) for each in found]
        assert len(counts) == n_pictures
        assert all(share <= count <= share + 4 for share, count in zip(shares, counts, strict=True))


def test_a_folder_without_the_sets_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cells2d"):
        learn._sets(tmp_path)
