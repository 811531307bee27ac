"""Finding and checking a data set: three forms of it, and everything that can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile

from mambaseg._errors import Cancelled, DatasetError, DatasetProblems
from mambaseg.train.check import in_parallel
from mambaseg.train.dataset import open_dataset
from mambaseg.train.files import find_cases, label_names


def write_volume(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path))


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[2:4, 4:9, 4:9], labels[4, 10:12, 10:12] = 1, 2
    return random.normal(100, 10, labels.shape).astype(np.float32), labels


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw folder of nnU-Net's with two channels."""
    folder = tmp_path / "Dataset001_two"
    for index in range(6):
        image, labels = volume(index)
        for channel in range(2):
            write_volume(folder / "imagesTr" / f"c{index}_{channel:04d}.nii.gz", image + channel)
        write_volume(folder / "labelsTr" / f"c{index}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "organ": 1, "spot": 2},
        "numTraining": 6, "file_ending": ".nii.gz"}))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of pictures and labels."""
    folder = tmp_path / "pairs"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(6):
        labels = np.zeros((24, 24), np.uint8)
        labels[4:9, 4:9] = 1 + index % 2
        tifffile.imwrite(folder / "labels" / f"p{index}.tif", labels)
        tifffile.imwrite(folder / "images" / f"p{index}.tif", (labels * 100 + 20).astype(np.uint8))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    return folder


def test_a_raw_folder_gives_channels_names_and_a_fold(raw: Path) -> None:
    data = open_dataset(raw)
    assert data.channels == ("T1", "CT")
    assert data.classes == ("background", "organ", "spot")
    assert (data.ndim, data.unit, len(data.train), len(data.validation)) == (3, "mm", 4, 2)
    name, frame, labels, spacing = next(data.load(data.train))
    image, truth = volume(int(name[1:]))
    np.testing.assert_allclose(frame, [image, image + 1])
    np.testing.assert_array_equal(labels, truth)
    assert spacing == (3, 1, 1)


def test_files_that_dataset_json_lists(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", str(raw))
    listed = {f"x{i}": {"images": [f"$ELSEWHERE/imagesTr/c{i}_000{channel}.nii.gz" for channel in range(2)],
                        "label": f"$ELSEWHERE/labelsTr/c{i}.nii.gz"} for i in range(2)}
    folder = tmp_path / "listed"
    folder.mkdir()
    described = json.loads((raw / "dataset.json").read_text()) | {"dataset": listed, "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps(described))
    assert [case.name for case in open_dataset(folder).train] == ["x0", "x1"]
    (raw / "imagesTr/c1_0001.nii.gz").unlink()
    with pytest.raises(DatasetProblems, match=r"c1_0001.nii.gz is missing, but dataset.json lists it"):
        open_dataset(folder)


def test_splits_of_a_raw_folder_are_taken_over(raw: Path) -> None:
    splits = [{"train": ["c1"], "val": ["c2"]}, {"train": ["c3"], "val": ["c4"]}]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    assert [case.name for case in open_dataset(raw, fold=1).validation] == ["c4"]


def test_a_table_of_paths_says_what_is_held_out(pairs: Path, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    rows = [f"x{i};pairs/images/p{i}.tif;pairs/labels/p{i}.tif;{'val' if i == 3 else 'train'}" for i in range(4)]
    table.write_text("\n".join(["name;image;labels;split", *rows]))
    data = open_dataset(table, fold=2)
    assert [case.name for case in data.validation] == ["x3"]
    assert [case.name for case in data.train] == ["x0", "x1", "x2"]
    assert data.classes == ("background", "class 1", "class 2")


def test_folds_hold_out_each_case_once(pairs: Path) -> None:
    held_out = [case.name for fold in range(5) for case in open_dataset(pairs, fold=fold).validation]
    assert sorted(held_out) == [f"p{index}" for index in range(6)]


def test_each_file_is_read_once(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = tifffile.TiffFile.__init__

    def counted(self: tifffile.TiffFile, file: object, *rest: object, **named: object) -> None:
        if isinstance(file, str | Path):
            read.append(Path(file))
        original(self, file, *rest, **named)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", counted)
    data = open_dataset(pairs)
    data.fingerprint(data.train, crop=False)
    assert len(read) == len(set(read)) == 12


@pytest.mark.parametrize(("labels", "expected"), [
    ({"background": 0, "a": 1}, {0: "background", 1: "a"}),
    ({"0": "background", "7": "liver"}, {0: "background", 7: "liver"}),
    ({"background": 0, "whole": [1, 2], "core": [2]}, {0: "background", 1: "whole", 2: "whole"}),
    ({"background": 0, "nuclei": "1..N"}, {}), (None, {}),
])
def test_label_names(labels: object, expected: dict[int, str]) -> None:
    assert label_names({"labels": labels}) == expected


def spoil_everything(folder: Path) -> None:
    (folder / "labels/p0.tif").unlink()
    tifffile.imwrite(folder / "labels/p1.tif", np.ones((9, 9), np.uint8))
    tifffile.imwrite(folder / "labels/p2.tif", np.full((24, 24), 9, np.uint8))
    tifffile.imwrite(folder / "images/p3.tif", np.zeros((5, 24, 24), np.uint8), metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "labels/p3.tif", np.ones((5, 24, 24), np.uint8), metadata={"axes": "ZYX"})
    (folder / "images/p4.tif").write_bytes(b"II*\0 this is no picture")


def test_all_problems_are_told_at_once_with_file_names(pairs: Path) -> None:
    tifffile.imwrite(pairs / "images/p6.tif", np.zeros((24, 24), np.uint8))
    tifffile.imwrite(pairs / "labels/p6.tif", np.ones((24, 24), np.uint8))
    spoil_everything(pairs)
    with pytest.raises(DatasetProblems) as caught:
        open_dataset(pairs)
    told = "\n".join(caught.value.problems)
    for words in ("images/p0.tif has no labels", "labels/p1.tif and images/p1.tif have different shapes, 9 x 9 and",
                  "labels/p2.tif has the label 9, but dataset.json knows 0 (background), 1 (a), 2 (b)",
                  "images/p3.tif is 3-D among 2-D images", "images/p4.tif"):
        assert words in told
    assert len(caught.value.problems) == 5
    assert "\n" not in str(caught.value)


def two_spacings(raw: Path) -> None:
    write_volume(raw / "imagesTr/c0_0001.nii.gz", volume(0)[0], (1, 1, 2))
    write_volume(raw / "labelsTr/c1.nii.gz", volume(1)[1], (1, 1, 2))


def one_case(raw: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        for path in (raw / part).iterdir():
            if not path.name.startswith("c0"):
                path.unlink()


def a_channel_less(raw: Path) -> None:
    (raw / "imagesTr/c2_0001.nii.gz").unlink()
    (raw / "labelsTr/c3.nii.gz").unlink()


def test_a_picture_in_place_of_labels(raw: Path) -> None:
    described = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(described | {"labels": {}}))
    write_volume(raw / "labelsTr/c2.nii.gz", np.arange(6 * 256, dtype=np.uint16).reshape(6, 16, 16))
    with pytest.raises(DatasetProblems, match=r"c2.nii.gz has 1,536 different values, as many as a picture"):
        open_dataset(raw)


@pytest.mark.parametrize(("spoil", "words"), [
    (two_spacings, ["c0_0001.nii.gz has (6, 16, 16) voxels with spacing (2.0, 1.0, 1.0)", "different spacings, 2 x 1"]),
    (one_case, ["numTraining 6, but imagesTr/ holds 1", "the only case"]),
    (a_channel_less, ["c2 has 1 channel", "labelsTr/c3.nii.gz is missing"]),
])
def test_problems_of_volumes(raw: Path, spoil: Callable[[Path], None], words: list[str]) -> None:
    spoil(raw)
    with pytest.raises(DatasetProblems) as caught:
        open_dataset(raw)
    for expected in words:
        assert expected in str(caught.value)


def test_too_many_classes(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for index in range(2):
        labels = np.arange(300, dtype=np.uint16).repeat(32).reshape(96, 100)
        tifffile.imwrite(tmp_path / f"labels/{index}.tif", labels)
        tifffile.imwrite(tmp_path / f"images/{index}.tif", labels.astype(np.uint8))
    with pytest.raises(DatasetProblems, match="300 different values, but a network learns 256"):
        open_dataset(tmp_path, instances=False)
    assert open_dataset(tmp_path).instances


@pytest.mark.parametrize(("make", "words"), [
    (lambda d: d / "nowhere", "not a folder"),
    (lambda d: (d / "images").mkdir() or d, "no folder labels/"),
    (lambda d: (d / "imagesTr").mkdir() or d, "no dataset.json"),
    (lambda d: (d / "t.csv").write_text("a,b\n1,2\n") and d / "t.csv", "columns a, b, expected image"),
    (lambda d: (d / "t.csv").write_text("image,labels\n") and d / "t.csv", "holds no pictures"),
])
def test_what_is_no_data_set(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        find_cases(make(tmp_path))


def test_work_keeps_its_order_and_stops_when_asked() -> None:
    assert in_parallel(lambda n: n * n, range(7), "Reading") == [n * n for n in range(7)]
    begun: list[int] = []

    def stop(update: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        in_parallel(begun.append, range(1000), "Reading", stop)
    assert len(begun) < 1000
