import json

import imageio.v3 as imageio
import numpy as np
import pytest
import SimpleITK

from mambaseg._errors import DatasetError
from mambaseg.plan.fingerprint import NNUNET_SAMPLES, Fingerprint, measure


def raw_cases(folder, n_channels):
    """The cases of an nnU-Net raw folder, one at a time, in the order of their names."""
    for path in sorted((folder / "raw" / "labelsTr").iterdir()):
        case, ending = path.name.split(".", 1)
        channels = [folder / "raw" / "imagesTr" / f"{case}_{c:04d}.{ending}" for c in range(n_channels)]
        if ending == "png":
            yield np.moveaxis(imageio.imread(channels[0]), -1, 0), imageio.imread(path), (1.0, 1.0)
        else:
            images = [SimpleITK.ReadImage(str(channel)) for channel in channels]
            frame = np.stack([SimpleITK.GetArrayFromImage(image) for image in images])
            yield frame, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), images[0].GetSpacing()[::-1]


@pytest.mark.slow
def test_ct_fingerprint_equals_nnunets(shared):
    folder = shared / "nnunet" / "rawdata" / "Dataset711_tinyCT"
    expected = json.loads((folder / "dataset_fingerprint.json").read_text())
    made = measure(raw_cases(folder, 1), 6, n_samples=NNUNET_SAMPLES).to_json()
    assert {key: made[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "n_files", "n_cases"),
    [("Dataset711_tinyCT", 1, 6), ("Dataset712_tinyRGB", 3, 5), ("Dataset713_tinyMRmask", 2, 5)],
)
def test_a_hundredth_of_the_samples_is_enough(shared, name, n_files, n_cases):
    folder = shared / "nnunet" / "rawdata" / name
    expected = Fingerprint.from_json(json.loads((folder / "dataset_fingerprint.json").read_text()))
    made = measure(raw_cases(folder, n_files), n_cases)
    assert made.shapes == tuple(shape[-len(made.shapes[0]) :] for shape in expected.shapes)
    assert made.spacings == tuple(spacing[-len(made.spacings[0]) :] for spacing in expected.spacings)
    assert made.median_relative_size == expected.median_relative_size
    for mine, theirs in zip(made.intensities, expected.intensities, strict=True):
        # Intensities are whole numbers, so that a percentile near a step may move by one.
        assert all(abs(mine[key] - theirs[key]) <= max(1, 0.02 * theirs["std"]) for key in theirs)
        assert abs(mine["mean"] - theirs["mean"]) < 0.005 * theirs["std"]


def test_the_crop_and_the_generator_by_hand():
    frame = np.zeros((2, 6, 7), dtype=np.int16)
    frame[0, 2:5, 1:4] = np.arange(1, 10).reshape(3, 3)
    frame[1, 2:5, 1:4] = 7
    labels = np.zeros((6, 7), dtype=np.uint8)
    labels[2, 1:4] = 1
    made = measure([(frame, labels, (1.0, 2.0))], 1, n_samples=50)
    assert (made.shapes, made.spacings, made.ndim) == (((3, 3),), ((1.0, 2.0),), 2)
    assert made.median_relative_size == pytest.approx(9 / 42)
    drawn = np.random.RandomState(1234).choice([1.0, 2.0, 3.0], 50)
    assert made.intensities[0]["mean"] == pytest.approx(drawn.mean(), rel=1e-6)
    assert made.intensities[0]["std"] == pytest.approx(drawn.std(), rel=1e-6)
    assert (made.intensities[0]["min"], made.intensities[0]["max"]) == (1.0, 3.0)
    assert made.intensities[1] == {"mean": 7, "median": 7, "std": 0, "min": 7, "max": 7, "percentile_00_5": 7,
                                   "percentile_99_5": 7}  # fmt: skip


def test_without_crop_the_rim_counts():
    frame = np.zeros((1, 6, 7))
    frame[0, 2, 3] = 5
    made = measure([(frame, (frame[0] > 0).astype(int), (1.0, 1.0))], 1, crop=False, unit="px")
    assert (made.shapes, made.median_relative_size, made.unit) == (((6, 7),), 1.0, "px")


def test_empty_cases_and_broken_voxels_add_no_intensities():
    labels = np.ones((4, 4), dtype=int)
    broken = np.full((1, 4, 4), 3.0)
    broken[0, 0, :2] = np.nan, np.inf
    black = np.zeros((1, 4, 4))
    made = measure([(broken, labels, (1.0, 1.0)), (black, 0 * labels, (1.0, 1.0))], 2, n_samples=100)
    assert made.shapes == ((4, 4), (4, 4))  # an all-zero image is not cropped
    assert (made.intensities[0]["min"], made.intensities[0]["max"]) == (3.0, 3.0)


def test_cases_are_taken_one_at_a_time():
    alive = []

    class Frame(np.ndarray):
        def __del__(self):
            if self.base is None:
                alive.append(-1)

    def cases():
        for _ in range(5):
            alive.append(1)
            frame = np.ndarray.__new__(Frame, (1, 8, 8))
            frame[...] = 1
            yield frame, np.ones((8, 8), dtype=int), (1.0, 1.0)
            del frame
            assert sum(alive) <= 1

    measure(cases(), 5, n_samples=10)
    assert alive.count(1) == 5


def test_json_survives_and_nnunets_files_are_read():
    made = Fingerprint(((4, 5, 6),), ((2.0, 1.0, 1.0),), ({"mean": 1.0},), 0.5, "um")
    assert Fingerprint.from_json(json.loads(json.dumps(made.to_json()))) == made
    stock = made.to_json()
    del stock["unit"]
    assert Fingerprint.from_json(stock).unit == "mm"
    with pytest.raises(DatasetError, match="spacings"):
        Fingerprint.from_json({key: value for key, value in stock.items() if key != "spacings"})


@pytest.mark.parametrize(
    ("cases", "n_cases", "message"),
    [
        ([], 0, "0 cases"),
        ([(np.ones((1, 4, 4)), np.ones((4, 4)), (1.0, 1.0))], 2, "1 cases, expected 2"),
        ([(np.ones((1, 4, 4)), np.ones((4, 5)), (1.0, 1.0))], 1, "same grid"),
        ([(np.ones((1, 4, 4)), np.zeros((4, 4)), (1.0, 1.0))], 1, "All labels of the data set are 0"),
        ([(np.ones((c, 4, 4)), np.ones((4, 4)), (1.0, 1.0)) for c in (1, 3)], 2, "1 channels in 2-D and 3 channels"),
    ],
)
def test_unusable_data_sets_say_what_is_wrong(cases, n_cases, message):
    with pytest.raises(DatasetError, match=message):
        measure(cases, n_cases)
