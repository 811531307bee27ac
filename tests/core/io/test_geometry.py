"""Geometry survives every family: written, read back, and read by the field's own libraries."""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io import read, write, write_labels

MEDICAL = (".nii", ".nii.gz", ".nrrd", ".mha")


def rotation(x: float, y: float, z: float) -> np.ndarray:
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(angle), np.sin(angle)) for angle in (x, y, z))
    return (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))


def oblique(shape: tuple[int, ...] = (5, 6, 7), flip: int = 1, unit: str = "mm") -> Image:
    direction = rotation(0.3, -0.7, 2.0) @ np.diag([1, 1, flip])
    grid = Grid(shape, (4.0, 0.7, 0.31), unit, (-12.5, 103.25, 7.125), tuple(direction.ravel()))
    values = np.random.default_rng(1).integers(-1000, 3000, shape).astype(np.int16)
    return Image(values, "ZYX", grid)


def same_place(grid: Grid, other: Grid) -> None:
    assert grid.shape == other.shape
    assert grid.unit == other.unit
    assert grid.spacing == pytest.approx(other.spacing, rel=1e-6)
    assert grid.origin_xyz == pytest.approx(other.origin_xyz, rel=1e-6, abs=1e-6)
    assert grid.direction == pytest.approx(other.direction, abs=1e-6)


@pytest.mark.parametrize("suffix", MEDICAL)
@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("unit", ["mm", "um"])
def test_oblique_anisotropic_volume_comes_back(tmp_path: Path, suffix: str, flip: int, unit: str) -> None:
    image = oblique(flip=flip, unit=unit)
    write(image, tmp_path / f"a{suffix}")
    again = read(tmp_path / f"a{suffix}")
    assert np.array_equal(again.data, image.data)
    assert again.data.dtype == image.data.dtype
    same_place(again.grid, image.grid)


@given(st.tuples(*[st.floats(-np.pi, np.pi)] * 3), st.tuples(*[st.floats(1e-3, 1e3)] * 3), st.sampled_from(MEDICAL))
@settings(max_examples=60)
def test_any_rotation_and_spacing(tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, ...],
                                  spacing: tuple[float, ...], suffix: str) -> None:
    grid = Grid((2, 3, 4), spacing, "mm", (1.0, -2.0, 3.0), tuple(rotation(*angles).ravel()))
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    write(Image(np.zeros((2, 3, 4), np.uint8), "ZYX", grid), path)
    again = read(path).grid
    assert again.spacing == pytest.approx(spacing, rel=1e-6)
    assert again.direction == pytest.approx(grid.direction, abs=1e-5)  # NIfTI keeps quaternion and rows as float32


@pytest.mark.parametrize("suffix", MEDICAL)
@pytest.mark.parametrize("flip", [1, -1])
def test_itk_sees_the_same(tmp_path: Path, suffix: str, flip: int) -> None:
    image = oblique(flip=flip)
    write(image, tmp_path / f"a{suffix}")
    itk = SimpleITK.ReadImage(str(tmp_path / f"a{suffix}"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(itk), image.data)
    assert itk.GetSpacing() == pytest.approx(image.grid.spacing[::-1], rel=1e-6)
    assert itk.GetOrigin() == pytest.approx(image.grid.origin_xyz, rel=1e-6)
    assert itk.GetDirection() == pytest.approx(image.grid.direction, abs=1e-6)


@pytest.mark.parametrize("suffix", MEDICAL)
def test_what_itk_writes_is_read(tmp_path: Path, suffix: str) -> None:
    image = oblique()
    itk = SimpleITK.GetImageFromArray(image.data)
    itk.SetSpacing(image.grid.spacing[::-1])
    itk.SetOrigin(image.grid.origin_xyz)
    itk.SetDirection(image.grid.direction)
    SimpleITK.WriteImage(itk, str(tmp_path / f"a{suffix}"), True)
    again = read(tmp_path / f"a{suffix}")
    assert np.array_equal(again.data, image.data)
    same_place(again.grid, image.grid)


@pytest.mark.parametrize("code", [0, 1])
def test_nibabel_sees_the_same_in_both_matrices(tmp_path: Path, code: int) -> None:
    image = oblique()
    write(image, tmp_path / "a.nii.gz")
    other = nibabel.load(tmp_path / "a.nii.gz")
    affine = np.diag([-1, -1, 1, 1]) @ image.grid.affine_xyz
    assert np.allclose(other.get_sform() if code else other.get_qform(), affine, atol=1e-4)
    assert np.array_equal(np.asanyarray(other.dataobj).T, image.data)


def test_pynrrd_sees_the_same(tmp_path: Path) -> None:
    image = oblique()
    write(image, tmp_path / "a.nrrd")
    values, header = nrrd.read(str(tmp_path / "a.nrrd"))
    assert np.array_equal(values.T, image.data)
    assert np.allclose(header["space directions"].T, image.grid.affine_xyz[:3, :3], rtol=1e-12)
    assert header["space"] == "left-posterior-superior"


@pytest.mark.parametrize("suffix", MEDICAL)
def test_sheared_axes_are_kept(tmp_path: Path, suffix: str) -> None:
    affine = np.array([[0.8, 0, 0.7, -30], [0, 0.9, 0, 20], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    grid = Grid.from_affine((3, 4, 5), affine, "mm")
    assert grid.is_sheared
    write(Image(np.zeros((3, 4, 5), np.uint8), "ZYX", grid), tmp_path / f"a{suffix}")
    assert np.allclose(read(tmp_path / f"a{suffix}").grid.affine_xyz, affine, atol=1e-6)


def test_labels_of_a_nifti_keep_both_of_its_matrices(tmp_path: Path) -> None:
    source = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.8, 0.9, 2, 1.0]))
    qform = np.diag([0.8, 0.9, 2, 1.0])
    qform[:3, 3] = 50
    source.set_sform(source.affine, 3)
    source.set_qform(qform, 4)
    nibabel.save(source, tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    write_labels(np.ones(image.data.shape, bool), image, tmp_path / "a_labels.nii.gz")
    labels = nibabel.load(tmp_path / "a_labels.nii.gz")
    assert np.array_equal(labels.header["srow_x"], source.header["srow_x"])
    assert np.array_equal(labels.get_qform(), nibabel.load(tmp_path / "a.nii.gz").get_qform())
    assert (int(labels.header["qform_code"]), int(labels.header["sform_code"])) == (4, 3)
    assert labels.get_data_dtype() == np.uint8


@pytest.mark.parametrize("suffix", [*MEDICAL, ".tif", ".ome.tif"])
@pytest.mark.parametrize("axes", ["YX", "CYX", "TYX", "CZYX", "TZYX", "TCZYX", "TCYX"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_every_axis_and_number_comes_back(tmp_path: Path, suffix: str, axes: str, dtype: type) -> None:
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    shape = tuple(sizes[letter] for letter in axes)
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    image = Image.from_array(values, axes, (2.0, 0.5, 0.25)[3 - (2 + ("Z" in axes)) :], "um")
    write(image, tmp_path / f"a{suffix}")
    again = read(tmp_path / f"a{suffix}")
    if "Z" not in axes and "Z" in again.axes:  # NIfTI and MetaImage have no pictures with time: a volume of one slice
        assert suffix in MEDICAL
        again = Image.from_array(again.data.squeeze(again.axes.index("Z")), again.axes.replace("Z", ""),
                                 again.grid.spacing[1:], again.grid.unit)
    assert again.axes == axes
    assert np.array_equal(again.data, values)
    assert again.data.dtype == dtype
    assert again.grid.spacing == pytest.approx(image.grid.spacing, rel=1e-6)
    assert again.grid.unit == "um"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".tif", ".ome.tif", ".png"])
def test_colours_come_back(tmp_path: Path, suffix: str) -> None:
    image = Image.from_array(np.random.default_rng(0).integers(0, 255, (5, 6, 3)).astype(np.uint8))
    write(image, tmp_path / f"a{suffix}")
    again = read(tmp_path / f"a{suffix}")
    assert again.is_rgb
    assert np.array_equal(again.data.squeeze(), image.data)


def test_png_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="float32"):
        write(Image.from_array(np.zeros((3, 4), np.float32)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
