import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label

from mambaseg._errors import ModelError, UserError
from mambaseg.image import Grid
from mambaseg.instances import (
    BOUNDARY,
    INTERIOR,
    Decoder,
    core_and_rim,
    decode,
    features,
    interior_and_boundary,
    keep_largest_component,
    relative_depth,
)
from mambaseg.metrics.matching import match_instances


def certain(labels):
    """Probabilities of a network that is sure of the right classes."""
    return np.moveaxis(np.eye(3, dtype=np.float32)[interior_and_boundary(labels)], -1, 0)


def blurred(labels, sigma=1.0):
    return np.stack([ndimage.gaussian_filter(one, sigma) for one in certain(labels)])


def discs(*centres_and_radii, shape=(64, 64)):
    y, x = np.mgrid[:shape[0], :shape[1]]
    labels = np.zeros(shape, int)
    for number, (cy, cx, radius) in enumerate(centres_and_radii, 1):
        labels[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (labels == 0)] = number
    return labels


def random_probabilities(seed, shape, smoothness):
    noise = np.random.default_rng(seed).standard_normal((3, *shape))
    logits = ndimage.gaussian_filter(noise, (0, *[smoothness] * len(shape)))
    powers = np.exp(3 * logits / logits.std())
    return (powers / powers.sum(axis=0)).astype(np.float32)


probabilities_of_any_shape = st.builds(
    random_probabilities, st.integers(0, 10_000), st.sampled_from([(40, 33), (1, 9), (5, 5), (6, 20, 18)]),
    st.sampled_from([0.0, 1.0, 2.0]))


def test_boundary_is_the_outermost_layer_and_parts_touching_objects():
    classes = interior_and_boundary(np.array([[1, 1, 1, 2, 2, 2]] * 3 + [[0] * 6]))
    assert classes.tolist() == [[1, 1, 2, 2, 1, 1], [1, 1, 2, 2, 1, 1], [2] * 6, [0] * 6]


def test_components_is_the_rule_of_the_authors():
    probabilities = random_probabilities(0, (50, 60), 1.0)
    expected = label(probabilities.argmax(axis=0) == INTERIOR, connectivity=2)
    assert np.array_equal(decode(probabilities, "components"), expected)
    diagonal = np.zeros((3, 2, 2), np.float32)
    diagonal[INTERIOR] = np.eye(2)
    assert decode(diagonal, "components").tolist() == [[1, 0], [0, 1]]


@given(probabilities_of_any_shape, st.sampled_from([0, 3, 8, 30]))
def test_labels_are_consecutive_within_the_foreground_and_not_too_small(probabilities, min_size):
    labels = decode(probabilities, min_size=min_size)
    sizes = np.bincount(labels.ravel())
    assert labels.dtype == np.int32
    assert (sizes[1:] >= max(min_size, 1)).all()
    foreground = probabilities[INTERIOR] + probabilities[BOUNDARY] >= 0.5
    assert not (labels > 0)[~ndimage.binary_fill_holes(foreground) & ~foreground].any()
    if min_size == 0:  # nothing of the foreground is lost
        assert (labels > 0)[foreground].all()


@given(probabilities_of_any_shape)
@settings(max_examples=30)
def test_each_object_is_one_piece(probabilities):
    labels = decode(probabilities)
    everywhere = np.ones((3,) * labels.ndim)
    assert all(ndimage.label(labels == number, everywhere)[1] == 1 for number in range(1, labels.max() + 1))


def test_touching_discs_are_split_and_get_their_boundary_back():
    truth = discs((32, 22, 10), (32, 41, 10), (14, 32, 9))
    for probabilities in (certain(truth), blurred(truth)):
        matching = match_instances(truth, decode(probabilities), 0.8)
        assert (matching.tp, matching.fp, matching.fn) == (3, 0, 0)


def test_discs_are_split_where_a_piece_of_the_boundary_is_missing():
    truth = discs((32, 22, 10), (32, 41, 10))
    classes = interior_and_boundary(truth)
    classes[29:36, 26:38] = INTERIOR
    probabilities = np.moveaxis(np.eye(3, dtype=np.float32)[classes], -1, 0)
    assert decode(probabilities, "components").max() == 1
    assert match_instances(truth, decode(probabilities), 0.9).f1 == 1


def test_split_goes_from_never_to_at_every_dent():
    truth = discs((32, 22, 10), (32, 36, 10)) > 0
    probabilities = blurred(truth.astype(int))
    n_objects = [decode(probabilities, split=split).max() for split in (0.05, 0.65, 0.98)]
    assert n_objects == sorted(n_objects)
    assert n_objects[0] == 1
    assert n_objects[-1] >= 2


def test_one_wrong_pixel_neither_splits_nor_adds_an_object():
    truth = discs((20, 20, 9), (44, 44, 9))
    for row, column, wrong in ((20, 20, BOUNDARY), (20, 20, 0), (20, 17, BOUNDARY), (5, 50, INTERIOR),
                               (20, 29, INTERIOR)):
        classes = interior_and_boundary(truth)
        classes[row, column] = wrong
        labels = decode(np.moveaxis(np.eye(3, dtype=np.float32)[classes], -1, 0))
        assert labels.max() == 2
        assert match_instances(truth, labels, 0.95).f1 == 1


@pytest.mark.parametrize(("ndim", "side"), [(2, 3), (2, 4), (2, 6), (3, 3), (3, 5)])
def test_touching_small_objects_come_back(ndim, side):
    numbers = np.arange(1, 4**ndim + 1).reshape((4,) * ndim)
    truth = np.pad(np.kron(numbers, np.ones((side,) * ndim, int)), 3)
    assert match_instances(truth, decode(certain(truth)), 0.5).f1 == 1


def test_objects_without_interior_come_back():
    truth = np.zeros((24, 24), int)
    for number, (row, column) in enumerate([(2, 2), (2, 12), (12, 2)], 1):
        truth[row:row + 2, column:column + 5] = number
    assert (interior_and_boundary(truth) != INTERIOR).all()
    assert np.array_equal(decode(certain(truth)), truth)


def test_holes_are_filled_up_to_the_limit_and_only_within_one_object():
    ring = discs((20, 20, 12), shape=(41, 41)) - discs((20, 20, 4), shape=(41, 41))
    hole = discs((20, 20, 4), shape=(41, 41)).sum()
    assert decode(certain(ring)).astype(bool).sum() == ring.sum() + hole
    assert decode(certain(ring), max_hole=int(hole) - 1).astype(bool).sum() == ring.sum()
    halves = ring * (1 + (np.arange(41) >= 20))
    labels = decode(certain(halves))
    assert labels.max() == 2
    assert labels[20, 20] == 0


def test_sizes_are_physical_where_a_spacing_is_given():
    truth = discs((12, 12, 3), (40, 40, 8))  # 29 and 197 pixels
    probabilities = certain(truth)
    assert decode(probabilities, min_size=30).max() == 1
    assert decode(probabilities, min_size=30, spacing=(2.0, 0.55)).max() == 2  # 29 px = 31.9
    assert decode(probabilities, min_size=30, spacing=(0.5, 0.5)).max() == 1
    assert decode(probabilities, min_size=0.001, spacing=(1e-3, 1e-3)).max() == 0


def test_thick_slices_are_measured_in_the_units_of_the_world():
    z, y, x = np.mgrid[:5, :40, :40]
    ball = np.zeros((5, 40, 40), int)
    for number, centre in enumerate((13, 27), 1):
        ball[((z - 2) * 4) ** 2 + (y - 20) ** 2 + (x - centre) ** 2 <= 64] = number
    labels = decode(blurred(ball, (0.2, 1, 1)), spacing=(4.0, 1.0, 1.0))
    assert match_instances(ball, labels, 0.7).f1 == 1


@pytest.mark.parametrize("shape", [(30, 30), (5, 30, 30)])
def test_uniform_pictures(shape):
    nothing = certain(np.zeros(shape, int))
    assert decode(nothing).max() == 0
    everything = np.zeros((3, *shape), np.float16)
    everything[INTERIOR] = 1
    assert (decode(everything) == 1).all()


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_turning_the_picture_turns_the_objects(seed):
    probabilities = random_probabilities(seed, (48, 48), 2.0)
    turned = decode(probabilities[:, ::-1, ::-1])[::-1, ::-1]
    labels = decode(probabilities)
    assert labels.max() == turned.max()
    assert match_instances(labels, turned, 0.7).f1 > 0.9 or labels.max() == 0


def test_settings_survive_being_written_down():
    decoder = Decoder("components", split=0.3, min_size=12.5)
    assert Decoder.from_json(json.loads(json.dumps(decoder.to_json()))) == decoder
    assert Decoder.from_json({}) == Decoder()
    with pytest.raises(ModelError, match="sharpness"):
        Decoder.from_json({"sharpness": 2})


@pytest.mark.parametrize(("setting", "value"), [
    ("method", "magic"), ("split", 0), ("split", 1.0), ("seed", -1), ("foreground", float("nan")), ("min_size", -1),
    ("max_hole", -0.5),
])
def test_settings_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(UserError, match=f"{value}"):
        Decoder(**{setting: value})


def test_unusable_probabilities_are_refused():
    with pytest.raises(ModelError, match=r"\(4, 8, 8\)"):
        decode(np.zeros((4, 8, 8), np.float32))
    with pytest.raises(ModelError, match="NaN"):
        decode(np.full((3, 8, 8), np.nan, np.float32))


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "tie", "diag"])
def test_largest_component_is_that_of_nnunet(root, name):
    fixture = np.load(root / "tests/data/metrics/largest_component.npz")
    classes = {"0": [1, 2], "2": 2, "3": (1, 2)}.get(name, 1)
    assert np.array_equal(keep_largest_component(fixture[f"{name}__in"], classes), fixture[f"{name}__out"])


def test_features_worked_out_by_hand():
    labels = np.array([[0, 3, 3], [0, 0, 3], [7, 0, 0]])
    frame = np.array([[[9, 1, 2], [9, 9, 6], [5, 9, 9]], np.full((3, 3), 4)])
    probabilities = np.zeros((3, 3, 3), np.float32)
    probabilities[0] = np.where(labels == 3, 0.25, 0.5)
    table = features(labels, frame, Grid((3, 3), (2.0, 0.5), "um"), probabilities, ("DNA", "actin"))
    assert table.index.name == "label"
    assert table.index.tolist() == [3, 7]
    assert list(table) == ["centroid_y_um", "centroid_x_um", "area_um2", "mean_intensity_DNA", "mean_intensity_actin",
                           "confidence"]
    assert table.loc[3].tolist() == pytest.approx([2 / 3, 2.5 / 3, 3.0, 3.0, 4.0, 0.75])
    assert table.loc[7].tolist() == pytest.approx([4.0, 0.0, 1.0, 5.0, 4.0, 0.5])


def test_features_of_a_volume_and_of_nothing():
    labels = np.ones((2, 2, 2), int)
    table = features(labels, labels[None], Grid((2, 2, 2), (3.0, 1.0, 1.0), "mm"))
    assert table.loc[1].to_dict() == {"centroid_z_mm": 1.5, "centroid_y_mm": 0.5, "centroid_x_mm": 0.5,
                                      "volume_mm3": 24.0, "mean_intensity": 1.0}
    empty = features(np.zeros((4, 4), int), None, Grid((4, 4), (1.0, 1.0)))
    assert list(empty) == ["centroid_y_px", "centroid_x_px", "area_px"]
    assert len(empty) == 0


def real_labels(shared):
    """Label pictures of the training part, some of each kind, cut to at most 384 x 384."""
    folder = shared / "data/nuclei2d"
    kinds = {file["id"]: file["category"] for file in json.loads((folder / "dataset.json").read_text())["files"]}
    names = json.loads((folder / "split.json").read_text())["train"]
    for kind, number in (("fluorescence", 8), ("histology", 6), ("brightfield", 2)):
        for name in [name for name in names if kinds[name] == kind][:number]:
            yield tifffile.imread(folder / "labels" / f"{name}.tif")[:384, :384].astype(np.int32)


def test_real_nuclei_come_back_from_exact_classes(shared):
    matchings = [match_instances(truth, decode(certain(truth))) for truth in real_labels(shared)]
    assert np.mean([matching.f1 for matching in matchings]) > 0.99
    assert np.mean(np.concatenate([matching.iou for matching in matchings])) > 0.98


def test_real_nuclei_come_back_from_blurred_noisy_classes_where_the_authors_rule_loses_many(shared):
    rng = np.random.default_rng(0)
    ours, authors = [], []
    for truth in real_labels(shared):
        noise = ndimage.gaussian_filter(rng.standard_normal((3, *truth.shape)), (0, 0.7, 0.7))
        powers = np.exp(np.log(np.clip(blurred(truth), 1e-3, 1)) + noise)
        probabilities = (powers / powers.sum(axis=0)).astype(np.float32)
        ours.append(match_instances(truth, decode(probabilities)).f1)
        authors.append(match_instances(truth, decode(probabilities, "components")).f1)
    assert np.mean(ours) > 0.96
    assert np.mean(ours) > np.mean(authors) + 0.05


def depths(labels):
    """Probabilities of a network that is sure of the right depths."""
    depth = relative_depth(labels)
    return np.stack([depth == 0, depth, (depth > 0) - depth]).astype(np.float32)


def test_relative_depth_by_hand():
    labels = np.array([[1, 1, 1, 2, 2, 0]] * 5)
    labels[0] = labels[-1] = 0
    edge = [0.5, 0.5, 0.5, 1, 1, 0]  # the first object is two layers deep, the second one
    assert relative_depth(labels).tolist() == [[0] * 6, edge, [1, 1, 0.5, 1, 1, 0], edge, [0] * 6]
    wide = np.ones((7, 7), int)
    wide[0] = 0
    assert core_and_rim(wide)[:, 3].tolist() == [0, 2, 2, 1, 1, 1, 1]  # of six layers; outside the picture it goes on


@pytest.mark.parametrize("shape", [(64, 64), (12, 40, 40)])
def test_each_object_is_deepest_somewhere_and_depth_follows_the_number_not_its_value(shape):
    labels = np.zeros(shape, int)
    labels[..., 5:30, 5:20] = 1
    labels[..., 5:30, 20:33] = 2
    depth = relative_depth(labels)
    assert depth.dtype == np.float32
    assert [depth[labels == number].max() for number in (1, 2)] == [1, 1]
    assert ((depth > 0) == (labels > 0)).all()
    assert np.array_equal(relative_depth(labels * 10**6), depth)
    assert relative_depth(np.zeros(shape, int)).max() == 0


def test_distance_tells_touching_discs_apart():
    truth = discs((32, 22, 10), (32, 41, 10), (14, 32, 9), (52, 32, 5))
    assert match_instances(truth, decode(depths(truth), "distance"), 0.95).f1 == 1
    soft = np.stack([ndimage.gaussian_filter(one, 1.0) for one in depths(truth)])
    assert match_instances(truth, decode(soft, "distance"), 0.8).f1 == 1


def test_distance_drops_no_foreground_and_joins_what_has_no_valley_between():
    truth = discs((32, 24, 10), (32, 39, 10))
    one = depths((truth > 0).astype(int))
    assert decode(one, "distance", split=0.05).max() == 1
    labels = decode(one, "distance", split=0.98)
    assert labels.max() == 2
    assert ((labels > 0) == (truth > 0)).all()


def test_distance_in_thick_slices():
    z, y, x = np.mgrid[:5, :40, :40]
    balls = np.zeros((5, 40, 40), int)
    for number, centre in enumerate((13, 27), 1):
        balls[((z - 2) * 4) ** 2 + (y - 20) ** 2 + (x - centre) ** 2 <= 64] = number
    assert match_instances(balls, decode(depths(balls), "distance", spacing=(4.0, 1.0, 1.0)), 0.9).f1 == 1


def test_real_nuclei_come_back_from_exact_depths(shared):
    matchings = [match_instances(truth, decode(depths(truth), "distance")) for truth in real_labels(shared)]
    assert np.mean([matching.f1 for matching in matchings]) > 0.98
