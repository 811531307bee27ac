import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg._errors import DatasetError
from mambaseg.plan.fingerprint import Fingerprint
from mambaseg.plan.plan import Plan
from mambaseg.plan.rules import to_plan
from mambaseg.plan.training import plan_for_training


def fingerprint_of(shape, spacing, n=20, n_channels=1, **more):
    return Fingerprint((shape,) * n, (spacing,) * n, ({"mean": 1.0, "std": 1.0},) * n_channels, **more)


def test_small_plan_of_cells_by_hand():
    plan = plan_for_training(fingerprint_of((520, 696), (1.0, 1.0), unit="px"), 2, 1, instances=True)
    assert (plan.ndim, plan.patch_size, plan.transpose, plan.spacing) == (2, (256, 256), (0, 1), None)
    assert plan.features_per_stage == (16, 32, 64, 128, 160, 160)  # 256 pixels end at 8
    assert plan.batch_size == 8  # 2^19 / 256^2
    assert (plan.normalisation, plan.crop_to_nonzero, plan.batch_dice) == (("percentile",), False, True)


def test_small_plan_of_a_small_organ_by_hand():
    plan = plan_for_training(fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0)), 3, 1)
    assert (plan.patch_size, plan.features_per_stage) == ((40, 56, 40), (16, 32, 64, 128))
    assert plan.batch_size == round(2**19 / (40 * 56 * 40)) == 6
    assert (plan.spacing, plan.normalisation, plan.crop_to_nonzero) == ((1.0, 1.0, 1.0), ("zscore",), True)


def test_small_plan_of_a_large_anisotropic_volume_by_hand():
    # Slices along the last axis: it comes first. A cube of 64^3 voxels is 22 slices of 109 pixels; 22 -> 11 -> 6 in the
    # stages after the pixels have grown to 4 mm, 109 -> 55 -> 28 -> 14 -> 7.
    plan = plan_for_training(fingerprint_of((512, 512, 90), (1.0, 1.0, 5.0)), 3, 1)
    assert (plan.transpose, plan.spacing) == ((2, 0, 1), (5.0, 1.0, 1.0))
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plan.patch_size == (24, 112, 112)
    assert plan.batch_size == 2


def test_slices_of_a_volume():
    plan = plan_for_training(fingerprint_of((512, 512, 90), (1.0, 1.0, 5.0)), 2, 1)
    assert (plan.transpose, plan.spacing, plan.patch_size) == ((2, 0, 1), (1.0, 1.0), (256, 256))


def test_standard_budget_follows_the_umamba_rule():
    plan = plan_for_training(fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0), 100), 3, 1, budget="standard")
    assert (plan.patch_size, plan.batch_size) == ((40, 56, 40), 4)  # as worked out in test_rules
    assert plan.features_per_stage == (32, 64, 128, 256)
    picture = plan_for_training(fingerprint_of((520, 696), (1.0, 1.0), 500, unit="px"), 2, 1, budget="standard")
    assert picture.features_per_stage[:2] == (32, 64)
    assert max(picture.features_per_stage) == 512


def assert_stock_plans(path):
    """What nnU-Net 2.1.1 planned in 3-D for a fingerprint, the kind of Dice with it, is planned for training."""
    fixture = json.loads(path.read_text())
    described, plans = fixture["dataset_json"], fixture["plans"]["umamba_2.1.1_ExperimentPlanner"]
    channels = [described["channel_names"][key] for key in sorted(described["channel_names"], key=int)]
    names = {"3d_fullres", "3d_lowres"} & set(plans["configurations"])
    for name in names:
        made = plan_for_training(Fingerprint.from_json(fixture["fingerprint"]), 3, len(channels), budget="standard",
                                 n_classes=len(described["labels"]), channel_names=channels,
                                 is_lowres=name == "3d_lowres")
        assert made == to_plan(plans, name), f"{path.stem} {name}"
    return names


def test_volumes_get_the_plans_of_the_committed_fixture(root):
    path = root / "tests" / "data" / "nnunet_plans" / "lowres_dropped.json"
    assert assert_stock_plans(path) == {"3d_fullres", "3d_lowres"}


def test_volumes_get_the_plans_of_every_fixture(shared):
    paths = sorted((shared / "nnunet" / "plans").glob("*.json"))
    planned = [assert_stock_plans(path) for path in paths]
    assert planned.count({"3d_fullres"}) >= 3  # without and with a low resolution
    assert planned.count({"3d_fullres", "3d_lowres"}) >= 3


def test_dice_is_over_the_batch_where_a_patch_sees_little_of_the_volume():
    small, large = fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0)), fingerprint_of((200, 200, 200), (1.0, 1.0, 1.0))
    assert not plan_for_training(small, 3, 1).batch_dice
    assert plan_for_training(large, 3, 1).batch_dice
    assert not plan_for_training(large, 3, 1, is_lowres=True).batch_dice
    unknown = fingerprint_of((200, 200, 200), (1.0, 1.0, 1.0), unit="px")  # no low resolution of these
    assert not plan_for_training(unknown, 3, 1).batch_dice


def test_known_pixel_sizes_are_used_and_unknown_ones_are_not():
    shapes = ((200, 200), (400, 400), (200, 200))
    spacings = ((0.5, 0.5), (0.25, 0.25), (0.5, 0.5))
    known = Fingerprint(shapes, spacings, ({"mean": 1.0},), unit="um")
    unknown = Fingerprint(shapes, spacings, ({"mean": 1.0},), unit="px")
    assert plan_for_training(known, 2, 1).spacing == (0.5, 0.5)
    assert plan_for_training(unknown, 2, 1).spacing is None


def test_channel_names_choose_the_normalisation():
    volumes = fingerprint_of((60, 60, 60), (1.0, 1.0, 1.0), n_channels=3, median_relative_size=0.3)
    plan = plan_for_training(volumes, 3, 3, channel_names=("ct", "T1", "noNorm"))
    assert plan.normalisation == ("ct", "zscore", "nonorm")
    assert plan.use_mask_for_norm == (False, True, False)
    cells = fingerprint_of((60, 60), (1.0, 1.0), n_channels=3, unit="px", median_relative_size=0.3)
    plan = plan_for_training(cells, 2, 3, channel_names=("DNA", "zscore", "rgb_to_0_1"))
    assert plan.normalisation == ("percentile", "zscore", "rgb_to_0_1")
    assert plan.use_mask_for_norm == (False, False, False)


def test_plans_survive_json():
    plan = plan_for_training(fingerprint_of((30, 300, 300), (4.0, 0.7, 0.7)), 3, 1)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_impossible_wishes_say_so():
    pictures = fingerprint_of((60, 60), (1.0, 1.0), unit="px")
    with pytest.raises(DatasetError, match="flat pictures"):
        plan_for_training(pictures, 3, 1)
    with pytest.raises(DatasetError, match="have 1 channels"):
        plan_for_training(pictures, 2, 3)
    with pytest.raises(DatasetError, match="2 channel names"):
        plan_for_training(pictures, 2, 1, channel_names=("a", "b"))
    with pytest.raises(ValueError, match="huge"):
        plan_for_training(pictures, 2, 1, budget="huge")


@given(
    st.integers(2, 3).flatmap(
        lambda n: st.tuples(
            st.tuples(*[st.integers(2, 3000)] * n), st.tuples(*[st.floats(0.05, 20)] * n), st.sampled_from(["mm", "px"])
        )
    )
)
def test_every_small_plan_is_small_and_whole(data):
    shape, spacing, unit = data
    ndim = len(shape)
    plan = plan_for_training(fingerprint_of(shape, spacing, unit=unit), ndim, 1)
    divisor = [1] * ndim
    for stride in plan.strides:
        divisor = [d * s for d, s in zip(divisor, stride, strict=True)]
    assert all(edge % d == 0 and edge >= d for edge, d in zip(plan.patch_size, divisor, strict=True))
    assert max(plan.features_per_stage) <= 160
    assert 2 <= plan.batch_size <= 16
    assert len(plan.strides) == len(plan.kernel_sizes) == len(plan.features_per_stage) == len(plan.n_blocks_encoder)
