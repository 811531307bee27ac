"""Published losses against the authors' numbers, and where their settings matter."""

import json
from pathlib import Path

import pytest
import torch

import parity_losses
from mambaseg.train.family_losses import (
    bce_dice,
    ce_dice,
    graded_bce_dice,
    structure_loss,
    structure_pair_loss,
    unetv2_isic_weights,
)


def test_values_and_gradients_are_the_authors(root: Path) -> None:
    found = list(parity_losses.checks(root / "tests" / "data" / "losses"))
    assert len(found) == 11
    assert [each.line for each in found if not each.passes] == []


def test_the_shared_file_passes_whole(shared: Path) -> None:
    found = list(parity_losses.checks(shared / "parity"))
    assert len(found) == 12
    assert [each.line for each in found if not each.passes] == []


def test_a_wrong_value_or_gradient_fails_and_a_new_item_is_unknown(root: Path, tmp_path: Path) -> None:
    content = json.loads((root / "tests" / "data" / "losses" / parity_losses.FILE).read_text())
    content["items"]["bce_dice_1_1"]["value"] *= 1 + 1e-8
    content["items"]["ce_dice_1_1"]["grad_l2"][0] *= 1 + 1e-8
    content["items"]["focal"] = {"value": 1.0}
    (tmp_path / parity_losses.FILE).write_text(json.dumps(content))
    wrong = [each.line for each in parity_losses.checks(tmp_path) if not each.passes]
    assert [line.split()[0].split(".")[1] + " " + line.split()[-1] for line in wrong] == [
        "bce_dice_1_1 FAIL", "ce_dice_1_1 FAIL", "focal unknown"]


def test_a_folder_without_the_file_has_no_lines(tmp_path: Path) -> None:
    assert list(parity_losses.checks(tmp_path)) == []


def test_bce_dice_by_hand() -> None:
    p, t = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert bce_dice(p, t).item() == pytest.approx(torch.log(torch.tensor(2.0)).item() + dice)


def test_graded_sides_weigh_a_tenth_to_a_half() -> None:
    torch.manual_seed(0)
    p, t = torch.rand(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) > 0.5).float()
    one = bce_dice(p, t).item()
    assert graded_bce_dice([p] * 5, p, t).item() == pytest.approx(one * 2.5)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        graded_bce_dice([p] * 4, p, t)


def test_the_background_counts_in_ce_dice() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    right = torch.stack((torch.full((1, 4, 4), 40.0), torch.zeros(1, 4, 4)), 1)
    assert ce_dice(right, target).item() == pytest.approx(0, abs=1e-5)
    assert ce_dice(-right, target, 0, 1).item() == pytest.approx(1, abs=1e-4)


def test_the_weighting_of_the_structure_loss_cancels_unless_asked_for() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    wrong_inside = torch.where(mask > 0, -3.0, -3.0)  # all background: errors near and within the object
    plain = structure_loss(wrong_inside, mask).item()
    weighted = structure_loss(wrong_inside, mask, weighted_cross_entropy=True).item()
    assert weighted > plain + 0.1
    far = torch.full((1, 1, 8, 8), -3.0)
    empty = torch.zeros(1, 1, 8, 8)  # no boundary, so that all weights are 1
    assert structure_loss(far, empty).item() == pytest.approx(structure_loss(far, empty, True).item())


def test_the_half_size_output_is_enlarged() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    full, half = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)
    assert structure_pair_loss((full, half), mask).item() == pytest.approx(2 * structure_loss(full, mask).item())


def test_no_resolution_of_unetv2_is_left_out() -> None:
    assert unetv2_isic_weights(4) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_do_not_overflow(dtype: torch.dtype) -> None:
    logits = torch.full((1, 1, 300, 300), 20.0, dtype=dtype)
    mask = torch.ones(1, 1, 300, 300)
    assert torch.isfinite(bce_dice(logits.sigmoid(), mask))
    assert structure_loss(logits, mask).item() == pytest.approx(0, abs=1e-3)
