"""DICOM: order, geometry and values of series; what is incomplete is refused. ITK is the second opinion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from mambaseg._errors import ImageError
from mambaseg.io import labels_path, read, write_labels

SERIES = generate_uid()


def one_slice(z: float, value: int, **changes: Any) -> Dataset:
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.SeriesInstanceUID = SERIES
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = 5, 7
    dataset.PixelSpacing = [0.7, 0.4]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, 20, z]
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1000
    dataset.PixelData = np.full((5, 7), value, "<i2").tobytes()
    for name, changed in changes.items():
        setattr(dataset, name, changed)
    return dataset


def save(folder: Path, slices: list[Dataset]) -> Path:
    folder.mkdir(exist_ok=True)
    for i, dataset in enumerate(slices):
        dataset.save_as(folder / f"{(i * 7) % 11:03d}.dcm")
    return folder


def test_slices_lie_in_the_order_of_their_positions(tmp_path: Path) -> None:
    image = read(save(tmp_path / "ct", [one_slice(2.5 * k, 10 * k) for k in (3, 0, 4, 1, 2)]))
    assert image.data[:, 0, 0].tolist() == [2 * 10 * k - 1000 for k in range(5)]
    assert image.data.dtype == np.int16
    assert image.grid.spacing == (2.5, 0.7, 0.4)
    assert image.grid.origin_xyz == (-10.0, 20.0, 0.0)
    assert image.metadata["modality"] == "CT"


def test_oblique_series_as_itk_has_it(tmp_path: Path) -> None:
    rows, columns = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    normal = np.cross(rows, columns)
    slices = [one_slice(0, k, ImageOrientationPatient=[*rows, *columns],
                        ImagePositionPatient=list(np.round(5 + 3.0 * k * normal, 9))) for k in range(6)]
    folder = save(tmp_path / "mr", slices)
    image = read(folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    itk = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(itk), image.data)
    assert itk.GetSpacing() == pytest.approx(image.grid.spacing[::-1], rel=1e-6)
    assert itk.GetOrigin() == pytest.approx(image.grid.origin_xyz, abs=1e-6)
    assert itk.GetDirection() == pytest.approx(image.grid.direction, abs=1e-6)
    write_labels(image.data > 0, image, labels_path(folder, tmp_path))
    labels = SimpleITK.ReadImage(str(tmp_path / "mr_labels.nii.gz"))
    assert labels.GetOrigin() == pytest.approx(itk.GetOrigin(), abs=1e-4)
    assert labels.GetDirection() == pytest.approx(itk.GetDirection(), abs=1e-6)


def test_nothing_of_the_patient_is_kept(tmp_path: Path) -> None:
    slices = [one_slice(k, k, PatientName="Secret^Name", PatientID="4711", StudyDate="19991231") for k in range(3)]
    image = read(save(tmp_path / "ct", slices))
    told = repr((image.metadata, image.source, image.notices))
    assert not any(word in told for word in ("Secret", "4711", "1999", SERIES))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: [one_slice(k, k) for k in (0, 1, 2, 4, 5)], "2 mm between"),
    (lambda: [one_slice(k, k) for k in (0, 1, 2, 2, 3)], "in one place"),
    (lambda: [one_slice(k, k) for k in range(3)] + [one_slice(3, 3, SeriesInstanceUID=generate_uid())], "2 series"),
    (lambda: [one_slice(0, 0), one_slice(1, 1, PixelSpacing=[0.7, 0.5])], "different size"),
    (lambda: [one_slice(0, 0), one_slice(1, 1, ImageOrientationPatient=[0, 1, 0, 0, 0, 1])], "different directions"),
    (lambda: [one_slice(0, 0), one_slice(1, 1, ImagePositionPatient=None)], "not all say where"),
    (lambda: [one_slice(0, 0), one_slice(1, 1, Rows=4, PixelData=bytes(56))], "differ in size"),
    (lambda: [one_slice(0, 0), one_slice(1, 1, PixelData=bytes(20))], "cut off|damaged"),
])  # fmt: skip
def test_what_makes_no_volume_is_refused(tmp_path: Path, make: Callable[[], list[Dataset]], words: str) -> None:
    folder = save(tmp_path / "ct", make())
    with pytest.raises(ImageError, match=words) as caught:
        read(folder)
    assert "ct" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gap_in_a_long_series_is_noticed(tmp_path: Path) -> None:
    slices = [one_slice(k, 1) for k in range(200) if k != 150]
    folder = tmp_path / "long"
    folder.mkdir()
    for i, dataset in enumerate(slices):
        dataset.save_as(folder / f"{i:04d}")
    with pytest.raises(ImageError, match="2 mm between 0149 and 0150"):
        read(folder)


def test_positions_rounded_by_the_scanner_are_even_enough(tmp_path: Path) -> None:
    image = read(save(tmp_path / "ct", [one_slice(round(1.25 * k, 1), k) for k in range(9)]))
    assert image.grid.spacing[0] == pytest.approx(1.25)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    dataset = one_slice(0, 0, SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=3)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    dataset.PixelData = np.repeat(np.array([1, 2, 3], "<i2"), 35).tobytes()

    def item(**values: Any) -> Dataset:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    dataset.SharedFunctionalGroupsSequence = Sequence([item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.7, 0.4], SliceThickness=9)]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=10, RescaleIntercept=1)]),
    )])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[1, 2, z])])) for z in (8, 4, 6)])
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm")
    image = read(tmp_path / "a.dcm")
    assert image.data[:, 0, 0].tolist() == [21, 31, 11]
    assert image.grid.spacing == (2.0, 0.7, 0.4)
    assert image.grid.origin_xyz == (1.0, 2.0, 4.0)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
                                  "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"])
def test_every_packing_gives_the_same_values(name: str) -> None:
    assert np.array_equal(read(get_testdata_file(name)).data, read(get_testdata_file("MR_small.dcm")).data)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "SC_rgb_rle.dcm"])
def test_real_files_as_itk_has_them(name: str) -> None:
    path = get_testdata_file(name)
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    data = read(path).data
    assert np.array_equal(np.moveaxis(data, 0, -1)[np.newaxis] if name.startswith("SC") else data, values)


@pytest.mark.parametrize(("name", "words"), [
    ("rtplan.dcm", "RT Plan"), ("reportsi.dcm", "Basic Text SR"), ("MR_truncated.dcm", "cut off|damaged"),
    ("liver_1frame.dcm", "Segmentation"),
])  # fmt: skip
def test_objects_without_a_whole_image(name: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read(get_testdata_file(name))


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm",
                                  "SC_rgb_jpeg.dcm"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_packed_pixels_that_are_cut_are_refused(tmp_path: Path, name: str, share: float) -> None:
    content = Path(get_testdata_file(name)).read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError):
        read(tmp_path / "a.dcm")


def test_film_has_a_time_axis() -> None:
    image = read(get_testdata_file("examples_ybr_color.dcm"))
    assert (image.axes, image.data.shape, image.is_rgb) == ("TCYX", (30, 3, 240, 320), True)
