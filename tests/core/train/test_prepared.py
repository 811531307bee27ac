"""Prepared cases on the disk: equal to those in memory, made once, made anew when something changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mambaseg._errors import Cancelled, UserError
from mambaseg.plan import Plan
from mambaseg.progress import Progress
from mambaseg.train import prepared
from mambaseg.train.dataset import Dataset, open_dataset
from mambaseg.train.prepared import prepare_cases
from mambaseg.train.sample import PatchSampler

PLAN = Plan(ndim=2, patch_size=(16, 16), batch_size=4, features_per_stage=(4, 8), kernel_sizes=((3, 3),) * 2,
            strides=((1, 1), (2, 2)), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,), transpose=(0, 1))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for part in ("images", "labels"):
        (tmp_path / "set" / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(5):
        labels = np.zeros((24, 20 + index), np.uint8)
        labels[4:9, 4:9], labels[12:15, 12:15] = 1, 2
        tifffile.imwrite(tmp_path / f"set/labels/a {index}.tif", labels)
        tifffile.imwrite(tmp_path / f"set/images/a {index}.tif", random.integers(1, 255, labels.shape, np.uint8))
    return tmp_path / "set"


def opened(pictures: Path) -> Dataset:
    return open_dataset(pictures)


def all_of(data: Dataset) -> list:
    return [*data.train, *data.validation]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are prepared from their files."""
    names: list[str] = []
    original = prepared._prepared

    def counted(data: Dataset, files: object, *further: object) -> object:
        names.append(files.name)
        return original(data, files, *further)

    monkeypatch.setattr(prepared, "_prepared", counted)
    return names


def test_the_disk_gives_what_memory_gives(pictures: Path, tmp_path: Path) -> None:
    data = opened(pictures)
    in_memory = prepare_cases(data, all_of(data), PLAN)
    on_disk = prepare_cases(data, all_of(data), PLAN, folder=tmp_path / "prepared")
    for one, other in zip(in_memory, on_disk, strict=True):
        assert isinstance(other.image, np.memmap)
        assert one.name == other.name
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.locations.keys() == other.locations.keys() == {1, 2}
        for number, voxels in one.locations.items():
            np.testing.assert_array_equal(voxels, other.locations[number])
    patches = [PatchSampler(cases, PLAN, seed=3).batch() for cases in (in_memory, on_disk)]
    for one, other in zip(*patches, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_nothing_is_made_twice_and_only_what_changed_anew(pictures: Path, tmp_path: Path, made: list[str]) -> None:
    folder = tmp_path / "prepared"
    data = opened(pictures)
    prepare_cases(data, all_of(data), PLAN, folder=folder)
    assert len(made) == 5
    made.clear()
    prepare_cases(opened(pictures), all_of(data), PLAN, folder=folder)
    assert made == []
    tifffile.imwrite(pictures / "images/a 2.tif", np.full((24, 22), 7, np.uint8))
    data = opened(pictures)
    prepare_cases(data, all_of(data), PLAN, folder=folder)
    assert made == ["a 2"]
    assert len(list(folder.iterdir())) == 5  # the old one is gone


def test_another_normalisation_but_not_another_network_makes_them_anew(pictures: Path, tmp_path: Path,
                                                                       made: list[str]) -> None:
    from dataclasses import replace

    data = opened(pictures)
    for plan, n_made in ((PLAN, 5), (replace(PLAN, batch_size=2, patch_size=(8, 8)), 0),
                         (replace(PLAN, normalisation=("nonorm",)), 5)):
        made.clear()
        prepare_cases(data, all_of(data), plan, folder=tmp_path / "prepared")
        assert len(made) == n_made


def test_a_damaged_file_is_made_anew(pictures: Path, tmp_path: Path, made: list[str]) -> None:
    data = opened(pictures)
    prepare_cases(data, all_of(data), PLAN, folder=tmp_path / "prepared")
    victim = sorted((tmp_path / "prepared").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:500])
    made.clear()
    cases = prepare_cases(data, all_of(data), PLAN, folder=tmp_path / "prepared")
    assert made == ["a 1"]
    assert all(case.image[0].shape == case.labels.shape for case in cases)


def test_what_was_made_before_a_cancel_is_kept(pictures: Path, tmp_path: Path, made: list[str]) -> None:
    def stop(update: Progress) -> None:
        if update.done == 2:
            raise Cancelled

    data = opened(pictures)
    with pytest.raises(Cancelled):
        prepare_cases(data, all_of(data), PLAN, stop, tmp_path / "prepared")
    n_kept = len(list((tmp_path / "prepared").glob("*.case")))
    assert n_kept >= 2
    made.clear()
    prepare_cases(data, all_of(data), PLAN, folder=tmp_path / "prepared")
    assert len(made) == 5 - n_kept


def test_a_full_disk_is_told_before_work_begins(pictures: Path, tmp_path: Path, made: list[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(pictures)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"need about .* only .* are free; make room, or choose another place"):
        prepare_cases(data, all_of(data), PLAN, folder=tmp_path / "prepared")
    assert made == []


def test_the_size_is_told_rightly(pictures: Path) -> None:
    from dataclasses import replace

    data = opened(pictures)
    for plan in (PLAN, replace(PLAN, fit="bilinear")):
        for case, files in zip(prepare_cases(data, data.train, plan), data.train, strict=True):
            told = prepared._bytes(data.looks[files.name], plan, data)
            assert told == case.image.nbytes + case.labels.nbytes
