"""Labels: where they go, how they are written, and what is taken for labels."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from mambaseg._errors import ImageError, UserError
from mambaseg.image import Image
from mambaseg.io import labels_path, read, read_labels, write, write_labels


@pytest.mark.parametrize(("given", "name"), [
    ("cells.tif", "cells_labels.tif"),
    ("cells.TIFF", "cells_labels.tiff"),
    ("cells.ome.tif", "cells_labels.ome.tif"),
    ("cells.v1.2.png", "cells.v1.2_labels.tif"),
    ("cells.jpg", "cells_labels.tif"),
    ("cells.npy", "cells_labels.tif"),
    ("scan.nii", "scan_labels.nii"),
    ("scan.NII.GZ", "scan_labels.nii.gz"),
    ("scan.hdr", "scan_labels.nii.gz"),
    ("scan.nrrd", "scan_labels.nrrd"),
    ("scan.seg.nrrd", "scan_labels.nrrd"),
    ("scan.nhdr", "scan_labels.nrrd"),
    ("scan.mhd", "scan_labels.mha"),
    ("slice.dcm", "slice_labels.nii.gz"),
    ("IM0001", "IM0001_labels.nii.gz"),
    ("../../up.tif", "up_labels.tif"),
])  # fmt: skip
def test_name(given: str, name: str) -> None:
    assert labels_path(given, "out") == Path("out") / name


def test_a_folder_gives_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "CT.1").mkdir()
    assert labels_path(tmp_path / "CT.1" / ".", "out").name == "CT.1_labels.nii.gz"


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16), (70_000, np.uint32)])
def test_smallest_type_that_holds(tmp_path: Path, suffix: str, highest: int, dtype: type) -> None:
    image = Image.from_array(np.zeros((3, 4, 5)), "ZYX", (3, 1, 1), "mm")
    labels = np.zeros((3, 4, 5), np.int64)
    labels[1, 2, 3] = highest
    write_labels(labels, image, tmp_path / f"a{suffix}")
    again = read_labels(tmp_path / f"a{suffix}")
    assert again.data.dtype == dtype
    assert np.array_equal(again.data, labels)
    assert again.grid.spacing == pytest.approx((3, 1, 1))


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz", ".nrrd", ".mha"])
def test_channels_go_and_time_stays(tmp_path: Path, suffix: str) -> None:
    image = Image.from_array(np.zeros((2, 3, 4, 5, 6)), "TCZYX")
    labels = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    write_labels(labels, image, tmp_path / f"a{suffix}")
    again = read_labels(tmp_path / f"a{suffix}")
    assert again.axes == "TZYX"
    assert np.array_equal(again.data, labels)


@pytest.mark.parametrize(("labels", "words"), [
    (np.zeros((3, 5)), "own grid"), (np.full((3, 4), -1), "from -1"), (np.full((3, 4), 0.5), "not whole"),
    (np.full((3, 4), np.nan), "not whole"), (np.full((3, 4), 2**32), "4294967296"),
])  # fmt: skip
def test_what_are_no_labels_is_refused(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        write_labels(labels, Image.from_array(np.zeros((3, 4))), tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


def test_whole_floats_are_cast(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 2], [7, 0]], np.float32))
    assert read_labels(tmp_path / "a.tif").data.tolist() == [[0, 2], [7, 0]]
    assert read_labels(tmp_path / "a.tif").data.dtype.kind == "i"


def test_fractions_and_colours_are_no_labels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((3, 4), 0.5, np.float32))
    with pytest.raises(ImageError, match=r"a\.tif.*not whole"):
        read_labels(tmp_path / "a.tif")
    write(Image.from_array(np.zeros((3, 4, 3), np.uint8)), tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"b\.png is a colour picture"):
        read_labels(tmp_path / "b.png")


def test_palette_gives_colours_as_an_image_and_indices_as_labels(tmp_path: Path) -> None:
    picture = Pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").data.tolist() == [[0, 1], [2, 1]]
    assert read(tmp_path / "a.png").data[:, 0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("name", "words"), [
    ("missing.tif", "is not there"), ("a.xyz", r"'\.xyz'.*\.nii\.gz"), ("no\0name.tif", "not there|cannot be opened"),
    ("n" * 300 + ".tif", "cannot be opened"), ("store.ome.zarr", "OME-Zarr"), ("folder.tif", "no DICOM"),
])  # fmt: skip
def test_no_image_there(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "a.xyz").write_text("something")
    for folder in ("store.ome.zarr", "folder.tif"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ImageError, match=words) as caught:
        read(tmp_path / name)
    assert str(caught.value).isprintable()


def test_line_breaks_in_names_do_not_reach_the_message(tmp_path: Path) -> None:
    (tmp_path / "a\nb.tif").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a\nb.tif")
    assert "\n" not in str(caught.value)


def test_writing_in_an_unknown_format_or_over_a_folder(tmp_path: Path) -> None:
    image = Image.from_array(np.zeros((3, 4), np.uint8))
    with pytest.raises(ImageError, match=r"\.jpg"):
        write(image, tmp_path / "a.jpg")
    (tmp_path / "b.tif").mkdir()
    with pytest.raises(UserError, match=r"b\.tif cannot be written"):
        write(image, tmp_path / "b.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["b.tif"]
