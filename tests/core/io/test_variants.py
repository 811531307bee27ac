"""Rarer forms of NIfTI, NRRD, MetaImage and PNG, made with the field's own libraries or written out by hand."""

import bz2
from pathlib import Path

import imagecodecs
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from mambaseg._errors import ImageError
from mambaseg.io import read

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("flip", [1, -1])
def test_nifti_with_qform_only(tmp_path: Path, flip: int) -> None:
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]) @ np.diag([1, 1, flip])
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.5, 0.7, 3.0]
    affine[:3, 3] = (1, 2, 3)
    source = nibabel.Nifti1Image(VALUES.T, None)
    source.set_qform(affine, 1)
    nibabel.save(source, tmp_path / "a.nii")
    image = read(tmp_path / "a.nii")
    assert np.allclose(image.grid.affine_xyz, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)
    itk = SimpleITK.ReadImage(str(tmp_path / "a.nii"))
    assert itk.GetDirection() == pytest.approx(image.grid.direction, abs=1e-6)


def test_nifti_fifth_axis_is_channels_and_fourth_is_time(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)  # x, y, z, t, c
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    assert image.axes == "TCZYX"
    assert np.array_equal(image.data, values.transpose(3, 4, 2, 1, 0))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_nrrd_encodings(tmp_path: Path, encoding: str, endian: str) -> None:
    header = {"encoding": encoding, "endian": endian, "space": "left-posterior-superior",
              "space directions": np.diag([1.0, 2, 3]), "space origin": [4.0, 5, 6]}  # fmt: skip
    values = VALUES if endian == "little" else VALUES.astype(">i2")
    nrrd.write(str(tmp_path / "a.nrrd"), values.T, header)
    image = read(tmp_path / "a.nrrd")
    assert np.array_equal(image.data, VALUES)
    assert image.grid.spacing == (3.0, 2.0, 1.0)
    assert image.grid.origin_xyz == (4.0, 5.0, 6.0)


def nrrd_file(path: Path, lines: str, data: bytes = VALUES.tobytes()) -> Path:
    text = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nendian: little\n{lines}\n\n"
    path.write_bytes(text.encode() + data)
    return path


@pytest.mark.parametrize(("lines", "data"), [
    ("encoding: raw\nline skip: 2\nbyte skip: 3", b"one\ntwo\nxyz" + VALUES.tobytes()),
    ("encoding: raw\nbyte skip: -1", b"whatever" + VALUES.tobytes()),
    ("encoding: bzip2\nbyte skip: 3", bz2.compress(b"xyz" + VALUES.tobytes())),
])  # fmt: skip
def test_nrrd_skips(tmp_path: Path, lines: str, data: bytes) -> None:
    assert np.array_equal(read(nrrd_file(tmp_path / "a.nrrd", lines, data)).data, VALUES)


@pytest.mark.parametrize(("lines", "spacing", "direction", "unit"), [
    ("spacings: 0.5 nan 3", (3.0, 1.0, 0.5), (1, 1, 1), "mm"),
    ("space: right-anterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,2)", (2.0,) * 3, (-1, -1, 1), "mm"),
    ("space: left-anterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,2)", (2.0,) * 3, (1, -1, 1), "mm"),
    ("space dimension: 3\nspace directions: (2,0,0) (0,2,0) (0,0,2)\nspace units: \"um\" \"um\" \"um\"", (2.0,) * 3,
     (1, 1, 1), "um"),
])  # fmt: skip
def test_nrrd_spaces(tmp_path: Path, lines: str, spacing: tuple[float, ...], direction: tuple[int, ...],
                     unit: str) -> None:
    grid = read(nrrd_file(tmp_path / "a.nrrd", f"encoding: raw\n{lines}")).grid
    assert (grid.spacing, grid.unit) == (spacing, unit)
    assert np.array_equal(np.diag(np.reshape(grid.direction, (3, 3))), direction)


@pytest.mark.parametrize(("lines", "axes"), [
    ("kinds: vector domain domain", "CYX"), ("kinds: domain domain time", "TYX"), ("kinds: domain domain list", "CYX"),
])  # fmt: skip
def test_nrrd_kinds(tmp_path: Path, lines: str, axes: str) -> None:
    image = read(nrrd_file(tmp_path / "a.nrrd", f"encoding: raw\n{lines}"))
    assert image.axes == axes
    assert np.array_equal(image.data, VALUES.transpose(2, 0, 1) if lines.startswith("kinds: vector") else VALUES)


@pytest.mark.parametrize(("lines", "words"), [
    ("encoding: hex", "hex"), ("encoding: raw\nkinds: vector list domain", "tell apart"),
    ("encoding: raw\nkinds: domain domain", "2 entries for 3"), ("encoding: raw\nbyte skip: -7", "byte skip"),
])  # fmt: skip
def test_nrrd_refused(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read(nrrd_file(tmp_path / "a.nrrd", lines))
    assert "a.nrrd" in str(caught.value)


@pytest.mark.parametrize(("n_dims", "is_vector"), [(2, False), (3, False), (4, False), (2, True), (3, True)])
def test_meta_as_itk_writes_it(tmp_path: Path, n_dims: int, is_vector: bool) -> None:
    shape = (2, 3, 4, 5)[4 - n_dims :] + ((3,) if is_vector else ())
    values = np.random.default_rng(0).integers(0, 99, shape).astype(np.uint8)
    itk = SimpleITK.GetImageFromArray(values, isVector=is_vector)
    itk.SetSpacing((0.5, 2.0, 3.0, 1.0)[:n_dims])
    SimpleITK.WriteImage(itk, str(tmp_path / "a.mha"), n_dims == 3)
    image = read(tmp_path / "a.mha")
    assert np.array_equal(image.data, np.moveaxis(values, -1, 0) if is_vector else values)
    assert image.axes == ("C" if is_vector else "") + "TZYX"[4 - n_dims :]
    assert image.grid.spacing == (3.0, 2.0, 0.5)[-image.ndim :]


@pytest.mark.parametrize(("lines", "data"), [
    ("BinaryDataByteOrderMSB = True", VALUES.astype(">i2").tobytes()),
    ("BinaryData = False", " ".join(map(str, VALUES.ravel())).encode()),
    ("HeaderSize = -1", b"whatever" + VALUES.tobytes()),
])  # fmt: skip
def test_meta_variants(tmp_path: Path, lines: str, data: bytes) -> None:
    text = f"NDims = 3\nDimSize = 4 3 2\nElementSize = 1 2 3\nDistanceUnits = um\n{lines}\nElementType = MET_SHORT\n"
    (tmp_path / "a.mha").write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + data)
    image = read(tmp_path / "a.mha")
    assert np.array_equal(image.data, VALUES)
    assert (image.grid.spacing, image.grid.unit) == ((3.0, 2.0, 1.0), "um")


@pytest.mark.parametrize(("lines", "words"), [
    ("NDims = 3\nDimSize = 4 3", "sizes"), ("NDims = 2\nDimSize = 4 3\nElementNumberOfChannels = 0", "0 channels"),
    ("NDims = 2\nDimSize = 4 3\nElementSpacing = 1 1 1", "3 numbers instead of 2"),
])  # fmt: skip
def test_meta_refused(tmp_path: Path, lines: str, words: str) -> None:
    text = f"{lines}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(text.encode() + VALUES.tobytes())
    with pytest.raises(ImageError, match=words):
        read(tmp_path / "a.mha")


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_png_keeps_its_sixteen_bits(tmp_path: Path, samples: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (5, 6, samples)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values.squeeze()))
    image = read(tmp_path / "a.png")
    assert image.data.dtype == np.uint16
    expected = values[..., 0] if samples < 3 else np.moveaxis(values[..., :3], -1, 0)
    assert np.array_equal(image.data, expected)
