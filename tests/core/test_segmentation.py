import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from mambaseg import Cancelled, Grid, Image, Progress, segment
from mambaseg._errors import ImageError, ModelError
from mambaseg.models import Model
from mambaseg.predict.run import predict


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_models.save_tiny(tmp_path_factory.mktemp("models") / "colour")


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_models.save_tiny(tmp_path_factory.mktemp("models") / "grey", channels=("DNA",), kind="classes")


@pytest.fixture(scope="module")
def volume_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "volume"
    return tiny_models.save_tiny(folder, channels=("MRI",), ndim=3, kind="classes",
                                 spacing=(2.0, 1.0, 1.0), normalisation=("zscore",))


@pytest.fixture
def picture() -> Image:
    """Bright spots in three colours."""
    rng = np.random.default_rng(0)
    values = rng.normal(40, 10, (3, 45, 70))
    rows, columns = np.mgrid[:45, :70]
    for row, column in rng.uniform(5, 40, (12, 2)) * (1, 1.6):
        values += 150 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 12)
    return Image(values.clip(0, 255).astype(np.uint8), "CYX", Grid((45, 70), (0.5, 0.5), "um"), is_rgb=True,
                 source="spots.png")


def grey_of(picture: Image) -> Image:
    return Image(picture.data[1], "YX", picture.grid, source="grey.png")


def test_objects_of_a_picture_lie_on_its_grid(picture: Image, colour_model: Model) -> None:
    result = segment(picture, colour_model, keep_probabilities=True)
    assert result.labels.shape == (45, 70)
    assert result.labels.dtype.kind in "iu"
    assert result.axes == "YX"
    assert result.grid == picture.grid
    assert result.probabilities is not None
    assert result.probabilities.shape == (3, 45, 70)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    assert result.features is not None
    assert list(result.features["label"]) == list(np.unique(result.labels[result.labels > 0]))
    assert result.record["n_objects"] == result.labels.max() == len(result.features) > 0


def test_classes_are_counted_by_name(picture: Image, grey_model: Model) -> None:
    result = segment(grey_of(picture), grey_model)
    assert result.features is None
    assert result.probabilities is None
    voxels = result.record["voxels"]
    assert list(voxels) == ["background", "front", "back"]
    assert [voxels[name] for name in voxels] == [int((result.labels == number).sum()) for number in range(3)]


def test_the_same_picture_as_array_image_and_file_gets_the_same_labels(
        picture: Image, colour_model: Model, tmp_path: Path) -> None:
    from skimage.io import imsave

    array = np.moveaxis(picture.data, 0, -1)
    imsave(tmp_path / "spots.png", array, check_contrast=False)
    assert colour_model.folder is not None
    from_file = segment(tmp_path / "spots.png", colour_model.folder)
    np.testing.assert_array_equal(segment(array, colour_model).labels, from_file.labels)
    from_names = segment(str(tmp_path / "spots.png"), str(colour_model.folder))
    np.testing.assert_array_equal(from_names.labels, from_file.labels)
    assert from_file.labels.max() > 0


def test_the_record_is_plain_and_tells_what_ran(picture: Image, colour_model: Model) -> None:
    record = segment(picture, colour_model, tta=True, roi=((0, 20), slice(10, None)), device="cpu").record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["model"] == {"name": "tiny", "checksum": colour_model.checksum, "network": "umamba-bot",
                               "kind": "instances"}
    assert record["program"]["torch"] == torch.__version__
    assert record["settings"] == {"device": "cpu", "precision": "float32", "tta": True, "roi": [[0, 20], [10, None]],
                                  "decoder": {"min_size": 4.0}}
    assert record["image"] == {"source": "spots.png", "axes": "CYX", "shape": [3, 45, 70], "dtype": "uint8",
                               "spacing": [0.5, 0.5], "unit": "um"}
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 50e6


def test_the_record_names_no_dicom_file(picture: Image, colour_model: Model) -> None:
    image = dataclasses.replace(picture, source="Doe^Jane_1970.dcm", metadata={"format": "DICOM", "header": "Doe^Jane"})
    assert "Doe" not in json.dumps(segment(image, colour_model).record)


def test_a_grey_picture_is_repeated_for_a_model_of_colours(picture: Image, colour_model: Model) -> None:
    grey = grey_of(picture)
    repeated = Image(np.stack([grey.data] * 3), "CYX", grey.grid)
    result = segment(grey, colour_model)
    np.testing.assert_array_equal(result.labels, segment(repeated, colour_model).labels)
    assert any("red, green and blue alike" in note for note in result.record["notes"])
    assert result.features is not None
    assert "mean_intensity" in result.features  # of the picture as it was given


def test_a_grey_series_is_repeated_in_the_right_place(picture: Image, colour_model: Model) -> None:
    grey = grey_of(picture)
    series = Image(np.stack([grey.data, grey.data[::-1]]), "TYX", grey.grid)
    result = segment(series, colour_model)
    np.testing.assert_array_equal(result.labels[0], segment(grey, colour_model).labels)


def test_a_colour_picture_becomes_luminance_for_one_channel(picture: Image, grey_model: Model) -> None:
    red, green, blue = picture.data.astype(float)
    luminance = Image((0.2126 * red + 0.7152 * green + 0.0722 * blue).astype(np.float32), "YX", picture.grid)
    result = segment(picture, grey_model, keep_probabilities=True)
    expected = segment(luminance, grey_model, keep_probabilities=True)
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-4)
    assert any("luminance" in note for note in result.record["notes"])


@pytest.mark.parametrize(("n_channels", "n_wanted"), [(2, 3), (4, 3), (3, 1)])
def test_other_channel_counts_are_refused_with_both_counts(
        n_channels: int, n_wanted: int, colour_model: Model, grey_model: Model) -> None:
    image = Image(np.arange(n_channels * 400.0).reshape(n_channels, 20, 20), "CYX", Grid((20, 20), (1, 1)))
    with pytest.raises(ModelError, match=f"{n_channels} channels.*takes {n_wanted} channel"):
        segment(image, colour_model if n_wanted == 3 else grey_model)


def test_grey_is_not_repeated_for_a_model_of_other_channels(picture: Image) -> None:
    model = tiny_models.tiny_model(channels=("DNA", "actin", "tubulin"))
    with pytest.raises(ModelError, match=r"1 channel, .*takes 3 channels \(DNA, actin, tubulin\)"):
        segment(grey_of(picture), model)


def test_time_points_are_segmented_one_by_one(picture: Image, colour_model: Model) -> None:
    frames = [picture.data, picture.data[:, ::-1], picture.data[:, :, ::-1]]
    series = Image(np.stack(frames), "TCYX", picture.grid, is_rgb=True)
    reports: list[Progress] = []
    result = segment(series, colour_model, progress=reports.append)
    assert result.labels.shape == (3, 45, 70)
    assert result.axes == "TYX"
    assert result.features is not None
    for index, frame in enumerate(frames):
        alone = segment(Image(frame, "CYX", picture.grid, is_rgb=True), colour_model)
        np.testing.assert_array_equal(result.labels[index], alone.labels)
        assert (result.features["frame"] == index).sum() == alone.record["n_objects"]
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert reports[-1].done == reports[-1].total == len({report.done for report in reports}) - 1


def test_a_2d_model_goes_through_a_volume_slice_by_slice(picture: Image, colour_model: Model) -> None:
    slices = [picture.data, picture.data[:, ::-1]]
    volume = Image(np.stack(slices, axis=1), "CZYX", Grid((2, 45, 70), (3.0, 0.5, 0.5), "um"), is_rgb=True)
    # A scaling that does not depend on the other slices
    plan = dataclasses.replace(colour_model.plan, normalisation=("rgb_to_0_1",) * 3)
    model = dataclasses.replace(colour_model, plan=plan)
    result = segment(volume, model)
    first, second = (segment(Image(part, "CYX", picture.grid, is_rgb=True), model) for part in slices)
    np.testing.assert_array_equal(result.labels[0], first.labels)
    np.testing.assert_array_equal(result.labels[1] > 0, second.labels > 0)
    assert result.labels.max() == first.labels.max() + second.labels.max()  # numbers are not used twice
    assert set(np.unique(result.labels[0])) & set(np.unique(result.labels[1])) == {0}
    assert any("slice" in note for note in result.record["notes"])


def test_a_picture_is_no_volume(picture: Image, volume_model: Model) -> None:
    with pytest.raises(ModelError, match=r"spots\.png.*2-D.*3-D"):
        segment(picture, dataclasses.replace(volume_model, channels=tiny_models.COLOURS))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    values = np.random.default_rng(1).normal(size=(10, 24, 20)).astype(np.float32)
    values[3:7, 5:15, 6:14] += 4
    return values


def test_micrometres_are_converted_for_a_model_in_millimetres(volume: np.ndarray, volume_model: Model) -> None:
    in_mm = Image(volume, "ZYX", Grid(volume.shape, (1.0, 1.5, 1.5), "mm"))
    in_um = Image(volume, "ZYX", Grid(volume.shape, (1000.0, 1500.0, 1500.0), "um"))
    result = segment(in_mm, volume_model, keep_probabilities=True)
    expected = predict([volume_model.build()], volume[None], (1.0, 1.5, 1.5), volume_model.plan, n_classes=3)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(segment(in_um, volume_model).labels, result.labels)


def test_an_unknown_voxel_size_is_assumed_and_told(volume: np.ndarray, volume_model: Model) -> None:
    known = Image(volume, "ZYX", Grid(volume.shape, (2.0, 1.0, 1.0), "mm"))
    unknown = Image(volume, "ZYX", Grid(volume.shape, (1.0, 1.0, 1.0), "px"))
    result = segment(unknown, volume_model)
    np.testing.assert_array_equal(result.labels, segment(known, volume_model).labels)
    assert any("2 x 1 x 1 mm" in note for note in result.record["notes"])


def test_an_unknown_voxel_size_is_that_of_the_pictures_a_model_learned_from(tmp_path: Path, picture: Image) -> None:
    model = tiny_models.save_tiny(tmp_path / "usual", spacing=(1.0, 1.0), usual_spacing=(0.5, 0.5), unit="um")
    known = dataclasses.replace(picture, grid=Grid(picture.grid.shape, (0.5, 0.5), "um"))
    unknown = dataclasses.replace(picture, grid=Grid(picture.grid.shape, (1.0, 1.0), "px"))
    result = segment(unknown, model)
    np.testing.assert_array_equal(result.labels, segment(known, model).labels)
    assert result.labels.shape == picture.grid.shape
    assert any("0.5 x 0.5 um" in note for note in result.record["notes"])


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_picture_is_refused(value: int, colour_model: Model) -> None:
    with pytest.raises(ImageError, match=f"constant.*{value}"):
        segment(np.full((40, 50), value, np.uint8), colour_model)


def test_a_picture_without_a_finite_value_is_refused(colour_model: Model) -> None:
    with pytest.raises(ImageError, match="no finite value"):
        segment(np.full((40, 50), np.nan, np.float32), colour_model)


def test_bad_values_are_counted_and_replaced_by_the_smallest(picture: Image, grey_model: Model) -> None:
    clean = grey_of(picture).data.astype(np.float32)
    clean[3, 4:7] = clean.min()
    broken = clean.copy()
    broken[3, 4:7] = np.nan, np.inf, -np.inf
    result = segment(broken, grey_model)
    np.testing.assert_array_equal(result.labels, segment(clean, grey_model).labels)
    assert result.record["n_bad_values"] == 3
    assert any(note.startswith("3 values were NaN") for note in result.record["notes"])


def test_a_picture_smaller_than_the_patch_is_padded_and_told(picture: Image, grey_model: Model) -> None:
    result = segment(picture.data[1, :9, :30], grey_model)
    assert result.labels.shape == (9, 30)
    assert any("padded" in note for note in result.record["notes"])


def test_a_region_is_segmented_as_in_the_whole(picture: Image, grey_model: Model) -> None:
    whole = segment(grey_of(picture), grey_model).labels
    part = segment(grey_of(picture), grey_model, roi=((5, 30), (20, 61))).labels
    np.testing.assert_array_equal(part[5:30, 20:61], whole[5:30, 20:61])
    part[5:30, 20:61] = 0
    assert not part.any()
    assert whole.any()


def test_cancelling_stops_within_a_window(picture: Image, colour_model: Model) -> None:
    reports: list[Progress] = []

    def stop(update: Progress) -> None:
        reports.append(update)
        if update.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(picture, colour_model, progress=stop)
    assert [report.done for report in reports] == [0, 1, 2]
    assert reports[0].total > 2


def test_a_model_trained_in_micrometres_meets_millimetres(tmp_path: Path, picture: Image) -> None:
    model = tiny_models.save_tiny(tmp_path / "um", spacing=(0.5, 0.5), unit="um")
    in_um = segment(picture, model, keep_probabilities=True)
    grid = dataclasses.replace(picture.grid, spacing=(0.0005, 0.0005), unit="mm")
    in_mm = segment(dataclasses.replace(picture, grid=grid), model, keep_probabilities=True)
    np.testing.assert_allclose(in_mm.probabilities, in_um.probabilities, atol=1e-6)
    np.testing.assert_array_equal(in_mm.labels, in_um.labels)
