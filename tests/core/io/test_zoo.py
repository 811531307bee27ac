"""Every image of the input zoo ends as its manifest says: read as described, or refused in one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mambaseg._errors import UserError
from mambaseg.image import Image
from mambaseg.io import READABLE, read, suffix_of

SHARED = Path(__file__).resolve().parents[4] / "shared"
ZOO = SHARED / "data" / "zoo"
MANIFEST = ZOO / "manifest.json"
GROUPS = ("tiff", "png", "jpeg", "nifti", "nrrd", "meta", "dicom", "values", "size", "names", "broken", "other")
OTHER_READERS = ("zarr", "model", "pairs")  # OME-Zarr, model packages and training pairs have tests of their own

if not MANIFEST.is_file():
    pytest.skip("needs the input zoo, shared/data/zoo, beside the checkout", allow_module_level=True)

ENTRIES = {entry["file"]: entry for entry in json.loads(MANIFEST.read_text())["entries"]}


def _is_ours(entry: dict[str, Any]) -> bool:
    file = entry["file"]
    if file.startswith("hostile/"):
        return suffix_of(file) in READABLE
    return file.startswith(tuple(f"{group}/" for group in GROUPS)) and not file.endswith(".ome.zarr")


OURS = [file for file, entry in ENTRIES.items() if _is_ours(entry)]


def canonical(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
    """Axes and shape as `Image` has them; alpha dropped; whether a first axis of length 1 is there or not is open."""
    axes, shape = entry["axes"].replace("?", "Z"), list(entry["shape"])
    if axes.endswith("YXC"):  # interleaved samples: the last of 2 or 4 is alpha
        shape[-1] = {2: 1, 4: 3}.get(shape[-1], shape[-1])
    sizes = {letter: n for letter, n in zip(axes, shape, strict=True) if n > 1 or letter in "YX"}
    kept = "".join(letter for letter in "TCZYX" if letter in sizes)
    return kept, tuple(sizes[letter] for letter in kept), 1 in shape


def squeezed(image: Image) -> tuple[str, tuple[int, ...]]:
    kept = [i for i, letter in enumerate(image.axes) if image.data.shape[i] > 1 or letter in "YX"]
    return "".join(image.axes[i] for i in kept), tuple(image.data.shape[i] for i in kept)


def read_or_refuse(file: str) -> tuple[Image | None, str]:
    try:
        return read(ZOO / file), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("file", OURS)
def test_ends_as_the_manifest_says(file: str) -> None:
    entry = ENTRIES[file]
    image, said = read_or_refuse(file)
    if image is None:
        assert entry["expected"] in ("error", "either"), said
        assert Path(file).name in said
        assert "\n" not in said
        assert len(said.split(". ")) >= 2, "says what to do"
        return
    assert entry["expected"] in ("ok", "either")
    if "shape" in entry:
        assert squeezed(image) == canonical(entry)[:2]
    if "spacing" in entry:
        n = image.ndim
        assert image.grid.spacing == pytest.approx(entry["spacing"][-n:], rel=1e-6)
        assert image.grid.unit == entry.get("unit", image.grid.unit)
    if "pixel_spacing" in entry:
        assert image.grid.spacing[-2:] == pytest.approx(entry["pixel_spacing"], rel=1e-6)
    if "dtype" in entry:
        assert image.data.dtype == entry["dtype"]
    if "channels" in entry:
        assert image.channel_names == tuple(entry["channels"])
    assert image.data.dtype.isnative


@pytest.mark.parametrize("file", [file for file in OURS if "same_values_as" in ENTRIES[file]])
def test_same_values(file: str) -> None:
    assert np.array_equal(read(ZOO / file).data, read(ZOO / ENTRIES[file]["same_values_as"]).data)


@pytest.mark.parametrize("file", [file for file in OURS if "same_place_as" in ENTRIES[file]])
def test_same_value_at_the_same_place_in_the_world(file: str) -> None:
    image, other = read(ZOO / file), read(ZOO / ENTRIES[file]["same_place_as"])
    index = np.array([*np.ndindex(image.grid.shape)])[:, ::-1]  # x, y, z
    world = np.c_[index, np.ones(len(index))] @ image.grid.affine_xyz.T
    there = np.round(world @ np.linalg.inv(other.grid.affine_xyz).T, 3)[:, :3]
    assert np.array_equal(there, np.round(there)), "voxel centres coincide"
    x, y, z = there.astype(int).T
    assert np.array_equal(image.data.ravel(), other.data[z, y, x])


@pytest.mark.parametrize(("file", "word"), [
    ("tiff/multipage_5.tif", "slices"), ("tiff/ome_two_series.ome.tif", "first"), ("tiff/palette.tif", "colour table"),
    ("tiff/resolution_absurd_72dpi.tif", "353 um"), ("jpeg/exif_rotated.jpg", "turned"),
    ("dicom/gantry_tilt", "sheared"), ("dicom/multiframe.dcm", "3 mm apart"),
    ("broken/zero_pixdim.nii", "1 mm is taken"), ("nifti/sheared_sform.nii.gz", "sheared"),
])  # fmt: skip
def test_a_decision_is_told(file: str, word: str) -> None:
    assert any(word in notice for notice in read(ZOO / file).notices)


def test_planes_apart_equal_interleaved_colours() -> None:
    assert np.array_equal(read(ZOO / "tiff/rgb_planar.tif").data, read(ZOO / "tiff/rgb.tif").data)


def test_every_entry_is_somebodys() -> None:
    archives = (".zip", ".gz", ".pth", ".pt", ".safetensors")
    rest = [file for file in ENTRIES if file not in OURS and not file.startswith(OTHER_READERS)]
    assert all(file.endswith((*archives, ".ome.zarr")) or file.startswith("hostile/model_") for file in rest)


def test_no_pickle_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_PICKLE_RAN", raising=False)
    with pytest.raises(UserError, match=r"object_pickle\.npy"):
        read(ZOO / "hostile/object_pickle.npy")
    assert "ZOO_PICKLE_RAN" not in os.environ
