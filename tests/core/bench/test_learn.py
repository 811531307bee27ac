"""The study of learning runs, and its figures are shares and points that mean something."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mambaseg._errors import DatasetError
from mambaseg.bench import learn

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


def test_a_folder_without_the_sets_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cells2d"):
        learn._cells(tmp_path, tmp_path, 1)
