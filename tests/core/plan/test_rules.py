import json
import math

import numpy as np
import pytest

from mambaseg._errors import ModelError
from mambaseg.plan.fingerprint import Fingerprint
from mambaseg.plan.plan import Plan
from mambaseg.plan.rules import (
    PLANNERS,
    normalisation_scheme,
    plan_dataset,
    target_spacing,
    to_plan,
    transpose_order,
    use_mask_for_norm,
)

PLANNER_OF = {
    "ExperimentPlanner": "current",
    "nnUNetPlannerResEncM": "resenc-m",
    "nnUNetPlannerResEncL": "resenc-l",
    "nnUNetPlannerResEncXL": "resenc-xl",
    "umamba_2.1.1_ExperimentPlanner": "umamba",
}


def as_json(values):
    return json.loads(json.dumps(values))


def assert_same_plans(path):
    """Every key of every planner's plans equals, floats to 1e-9."""
    fixture = json.loads(path.read_text())
    assert set(fixture["plans"]) == set(PLANNER_OF)
    for stock_name, expected in fixture["plans"].items():
        planner = PLANNER_OF[stock_name]
        made = plan_dataset(fixture["dataset_json"], fixture["fingerprint"], planner, fixture["dataset_name"])
        assert_equal(as_json(made), expected, f"{path.stem} {planner}")


def assert_equal(made, expected, where):
    if isinstance(expected, dict):
        assert set(made) == set(expected), where
        for key, value in expected.items():
            assert_equal(made[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(made) == len(expected), where
        for i, value in enumerate(expected):
            assert_equal(made[i], value, f"{where} [{i}]")
    elif isinstance(expected, float):
        assert math.isclose(made, expected, rel_tol=1e-9), f"{where}: {made} instead of {expected}"
    else:
        assert made == expected, f"{where}: {made} instead of {expected}"


@pytest.mark.parametrize("name", ["gray2d_huge", "lowres_dropped"])
def test_committed_plans_are_met_exactly(root, name):
    assert_same_plans(root / "tests" / "data" / "nnunet_plans" / f"{name}.json")


def test_all_plans_are_met_exactly(shared):
    paths = sorted((shared / "nnunet" / "plans").glob("*.json"))
    assert len(paths) >= 14
    for path in paths:
        assert_same_plans(path)


@pytest.mark.parametrize("name", ["Dataset711_tinyCT", "Dataset712_tinyRGB", "Dataset713_tinyMRmask"])
def test_plans_of_raw_data_sets_are_met_exactly(shared, name):
    folder = shared / "nnunet" / "rawdata" / name
    dataset = json.loads((folder / "raw" / "dataset.json").read_text())
    fingerprint = Fingerprint.from_json(json.loads((folder / "dataset_fingerprint.json").read_text()))
    expected = json.loads((folder / "nnUNetPlans.json").read_text())
    assert_equal(as_json(plan_dataset(dataset, fingerprint, "current", expected["dataset_name"])), expected, name)


def test_pictures_measured_with_two_axes_plan_like_nnunets_slices(root):
    fixture = json.loads((root / "tests" / "data" / "nnunet_plans" / "gray2d_huge.json").read_text())
    slices = Fingerprint.from_json(fixture["fingerprint"])
    pictures = Fingerprint(
        tuple(shape[1:] for shape in slices.shapes), tuple(s[1:] for s in slices.spacings), slices.intensities
    )
    assert plan_dataset(fixture["dataset_json"], pictures) == plan_dataset(fixture["dataset_json"], slices)


def fingerprint_of(shape, spacing, n=10, **more):
    intensities = ({"mean": 10.0, "std": 2.0, "percentile_00_5": 5.0, "percentile_99_5": 15.0},)
    return Fingerprint((shape,) * n, (spacing,) * n, intensities, **more)


def dataset_of(n=10, channel="MRI"):
    labels = {"background": 0, "a": 1}
    return {"channel_names": {"0": channel}, "labels": labels, "numTraining": n, "file_ending": ".nii.gz"}


def test_target_spacing_by_hand():
    shapes = np.array([[10, 100, 100]] * 3)
    plain = np.array([[1.0, 2.0, 1.0], [1.0, 3.0, 1.0], [3.0, 4.0, 1.0]])
    assert target_spacing(plain, shapes).tolist() == [1, 3, 1]  # 3 is not more than three times 1
    # Median 8 > 3 and 3 * 10 slices < 100: the 10th percentile of 4, 8, 12 is 4.8.
    thick = np.array([[4.0, 1.0, 1.0], [8.0, 1.0, 1.0], [12.0, 1.0, 1.0]])
    assert target_spacing(thick, shapes).tolist() == pytest.approx([4.8, 1, 1])
    # The 10th percentile of 0.1, 4, 4 is 0.88, finer than the pixels: just above these instead.
    odd = np.array([[0.1, 1.0, 1.0], [4.0, 1.0, 1.0], [4.0, 1.0, 1.0]])
    assert target_spacing(odd, shapes).tolist() == pytest.approx([1.00001, 1, 1], abs=1e-12)


def test_transpose_puts_the_coarsest_axis_first():
    assert transpose_order((1.0, 5.0, 2.0)) == (1, 0, 2)
    assert transpose_order((1.0, 1.0, 1.0)) == (0, 1, 2)


def test_normalisation_names():
    assert [normalisation_scheme(n) for n in ("CT", "ct", "noNorm", "T1")] == ["ct", "ct", "nonorm", "zscore"]
    # Version 2.1.1 knows "CT" only as it is written.
    assert [normalisation_scheme(n, is_case_sensitive=True) for n in ("CT", "ct")] == ["ct", "zscore"]
    assert use_mask_for_norm(["zscore", "nonorm"], 0.5) == (True, False)
    assert use_mask_for_norm(["zscore", "nonorm"], 0.75) == (False, False)


def test_plan_of_a_small_volume_by_hand():
    # 36 x 50 x 35 at 1 mm: 36 -> 18 -> 9 -> 5, so three halvings and multiples of 8; all 32 * 2^i channels.
    plans = plan_dataset(dataset_of(100), fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0), 100))
    plan = to_plan(plans, "3d_fullres")
    assert (plan.ndim, plan.patch_size, plan.spacing) == (3, (40, 56, 40), (1.0, 1.0, 1.0))
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plan.features_per_stage == (32, 64, 128, 256)
    assert (plan.n_blocks_encoder, plan.n_blocks_decoder) == ((2, 2, 2, 2), (2, 2, 2))
    # Activations: encoder 89600 * (64 + 128/8 + 256/64 + 512/512), decoder 3 * 89600 * (32 + 64/8 + 128/64), head 2 *
    # 89600: 89600 * (85 + 126 + 2) = 19.08e6, which fits 29.3 times into the reference: 59 patches at its batch of 2.
    # 5 % of 100 * 63000 voxels are 3.5 patches (to even: 4), which is fewer.
    assert plan.batch_size == round(0.05 * 100 * 63000 / 89600) == 4
    assert plan.batch_dice is False


def test_plan_of_slices_keeps_the_volume_order_and_drops_the_coarse_axis():
    plans = plan_dataset(dataset_of(), fingerprint_of((300, 20, 200), (1.0, 6.0, 1.5)))
    plan = to_plan(plans, "2d")
    assert (plan.ndim, plan.transpose, plan.spacing) == (2, (1, 0, 2), (1.0, 1.5))
    assert plan.batch_dice is True


def test_pictures_keep_their_pixel_grid():
    dataset = dataset_of() | {"file_ending": ".png"}
    plan = to_plan(plan_dataset(dataset, fingerprint_of((1, 200, 180), (999.0, 1.0, 1.0))), "2d")
    assert (plan.spacing, plan.transpose) == (None, (0, 1))


@pytest.mark.parametrize("planner", list(PLANNERS))
def test_to_plan_survives_json_for_every_planner(planner):
    fingerprint = fingerprint_of((400, 500, 500), (1.0, 0.8, 0.8), median_relative_size=0.4)
    plans = as_json(plan_dataset(dataset_of(channel="CT"), fingerprint, planner))
    assert set(plans["configurations"]) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}
    for name in plans["configurations"]:
        plan = to_plan(plans, name)
        assert Plan.from_json(as_json(plan.to_json())) == plan
        assert plan.normalisation == ("ct",)
        assert plan.intensities[0]["percentile_99_5"] == 15.0
        assert len(plan.n_blocks_decoder) == len(plan.strides) - 1
    assert to_plan(plans, "3d_cascade_fullres") == to_plan(plans, "3d_fullres")


def test_flat_and_current_form_give_the_same_plan():
    fingerprint = fingerprint_of((120, 200, 200), (1.0, 1.0, 1.0))
    flat, current = (plan_dataset(dataset_of(), fingerprint, planner) for planner in ("umamba", "current"))
    assert to_plan(flat, "3d_fullres") == to_plan(current, "3d_fullres")


def test_bare_numbers_in_older_plans_stand_for_all_stages():
    plans = plan_dataset(dataset_of(), fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0)))
    expected = to_plan(plans, "3d_fullres")
    plans["configurations"]["3d_fullres"] |= {"n_conv_per_stage_encoder": 2, "n_conv_per_stage_decoder": 2}
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    assert to_plan(plans, "3d_fullres") == expected


def test_unusable_plans_say_what_is_wrong():
    plans = plan_dataset(dataset_of(), fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0)))
    with pytest.raises(ModelError, match=r'"3d_lowres", expected one of: 2d, 3d_fullres'):
        to_plan(plans, "3d_lowres")
    plans["configurations"]["2d"]["inherits_from"] = "2d"
    with pytest.raises(ModelError, match='"2d"'):
        to_plan(plans, "2d")
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["HomemadeNormalization"]
    with pytest.raises(ModelError, match="HomemadeNormalization"):
        to_plan(plans, "3d_fullres")


def test_unknown_planner_is_named():
    with pytest.raises(ValueError, match="resenc-xxl"):
        plan_dataset(dataset_of(), fingerprint_of((36, 50, 35), (1.0, 1.0, 1.0)), "resenc-xxl")
