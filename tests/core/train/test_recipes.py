"""Each preset, in a run of two steps, against the numbers of its paper."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mambaseg
from discs import write_dataset
from mambaseg._errors import UserError
from mambaseg.prepare import prepare
from mambaseg.train import family_losses, loop
from mambaseg.train.checkpoint import load_checkpoint
from mambaseg.train.dataset import Dataset, open_dataset
from mambaseg.train.recipes import RECIPES, as_binary, check_recipe

SGD = {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
# Optimiser; rate at the start and after half of the run; loss; patch and batch; clipping: what the papers and their
# code say. Half of 300 epochs is the 150th, the lowest point of a wave of 2 x 50
PAPERS: dict[str, dict[str, Any]] = {
    "nnunet": {"optimizer": SGD, "rates": (1e-2, 1e-2 * 0.5**0.9), "loss": None, "clip": (12, None)},
    "umamba-cells": {"optimizer": SGD, "rates": (1e-2, 1e-2 * 0.5**0.9), "loss": None, "clip": (12, None)},
    "isic": {"optimizer": ADAMW, "rates": (1e-3, 1e-5), "loss": "bce_dice", "sizes": (256, 32), "clip": (None, None)},
    "polyp": {"optimizer": ADAMW, "rates": (1e-3, 1e-5), "loss": "bce_dice", "sizes": (256, 80), "clip": (None, None)},
    "synapse": {"optimizer": ADAMW, "rates": (1e-3, 1e-5), "loss": "ce_dice", "sizes": (224, 32), "clip": (None, None)},
    "unetv2": {"optimizer": SGD, "rates": (1e-3, 1e-3 * 0.5**0.9), "loss": "unetv2_isic_loss", "clip": (12, None)},
    "unetv2-polyp": {"optimizer": ADAMW | {"weight_decay": 1e-4}, "rates": (1e-4, 1e-4), "loss": "structure_pair_loss",
                     "sizes": (352, 16), "clip": (None, 0.5)},
}
NETWORKS = {"isic": "vmunet", "polyp": "vmunetv2", "synapse": "vmunet", "unetv2": "unetv2", "unetv2-polyp": "unetv2",
            "nnunet": "umamba-bot", "umamba-cells": "umamba-bot"}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Discs as one class, and as objects."""
    folder = tmp_path_factory.mktemp("discs")
    return {kind: write_dataset(folder / str(kind), n=2, instances=kind, colour=True) for kind in (False, True)}


def brightness(plan: Any, values: list[float]) -> list[float]:
    """What a row of values becomes on its way into the network."""
    plan = dataclasses.replace(plan, fit="windows", spacing=None)
    return [float(v) for v in prepare(np.array([[values]], np.float32), None, plan).array[0, 0]]


@pytest.mark.parametrize("name", PAPERS)
def test_a_run_is_that_of_the_paper(name: str, discs: dict[bool, Path], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    paper, recipe = PAPERS[name], RECIPES[name]
    losses: list[float] = []
    if paper["loss"]:
        original = getattr(family_losses, paper["loss"])

        def spy(*arguments: Any) -> torch.Tensor:
            loss = original(*arguments)
            losses.append(loss.item())
            return loss

        monkeypatch.setattr(family_losses, paper["loss"], spy)
    bounds: list[loop.Settings] = []
    clip = loop._Run._clip
    monkeypatch.setattr(loop._Run, "_clip", lambda run: bounds.append(run.settings) or clip(run))
    # a small network in place of theirs: what is learned with is looked at here
    model = mambaseg.train(discs[name == "umamba-cells"], "umamba-bot", tmp_path / "model", recipe=name, iterations=2,
                           batch_size=2)
    state = load_checkpoint(tmp_path / "model.training" / "last.pt")
    group = state.optimizer["param_groups"][0]
    assert {key: group[key] for key in paper["optimizer"]} == paper["optimizer"]
    assert group["lr"] == pytest.approx(paper["rates"][1])
    assert [(one.clip_norm, one.clip_value) for one in bounds] == [paper["clip"]] * 2
    assert recipe.rate == paper["rates"][0]
    if paper["loss"]:
        assert state.history[-1]["loss"] == pytest.approx(np.mean(losses))
    if "sizes" in paper:
        assert (model.plan.patch_size[0], recipe.batch_size) == paper["sizes"]
        assert model.plan.fit == "bilinear"
    assert recipe.network == NETWORKS[name]
    assert model.training["recipe"] == name


def test_values_on_their_way_into_the_network(discs: dict[bool, Path], tmp_path: Path) -> None:
    from mambaseg.plan.training import plan_for_training
    from mambaseg.train.recipes import planned

    data = open_dataset(discs[False])
    plan = plan_for_training(data.fingerprint(data.train, crop=False), 2, 3)
    coloured = dataclasses.replace(planned(RECIPES["unetv2-polyp"], plan), fit="windows", spacing=None)
    red, green, blue = prepare(np.full((3, 1, 1), 255, np.uint8), None, coloured).array.ravel()
    assert (red, green, blue) == pytest.approx(((1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225))
    plan = dataclasses.replace(plan, normalisation=("zscore",), use_mask_for_norm=(False,))
    assert brightness(planned(RECIPES["isic"], plan), [30, 40, 80]) == pytest.approx([0, 51, 255])
    assert brightness(planned(RECIPES["synapse"], plan), [-900, -125, 75, 275, 900]) == pytest.approx([0, 0, 0.5, 1, 1])
    assert brightness(planned(RECIPES["umamba-cells"], plan), [1, 2, 3]) == pytest.approx([-1.5**0.5, 0, 1.5**0.5])


def test_objects_are_decoded_as_their_authors_do(discs: dict[bool, Path], tmp_path: Path) -> None:
    model = mambaseg.train(discs[True], output=tmp_path / "model", recipe="umamba-cells", iterations=1, batch_size=1)
    assert (model.kind, model.n_outputs, model.decoder) == ("instances", 3, {"method": "components"})


def test_a_binary_preset_has_one_output_and_paints_the_files_own_value(tmp_path: Path) -> None:
    data = as_binary(open_dataset(write_dataset(tmp_path / "set", instances=False, label_type="semantic",
                                                labels={"background": 0, "disc": 1})))
    assert (data.kind, data.n_outputs, data.regions, data.region_order) == ("regions", 1, ((1,),), (1,))


@pytest.mark.parametrize(("name", "changes", "words"), [
    ("isic", {"classes": ("background", "a", "b")}, "merge them"),
    ("polyp", {"instances": True}, "hold objects"),
    ("synapse", {"ignore_value": 9}, "ignore"),
    ("unetv2-polyp", {"channels": ("grey",)}, "have 1 channel"),
    ("unetv2", {"regions": ((1, 2), (2,)), "classes": ("background", "a", "b")}, "nest"),
])
def test_a_preset_that_does_not_suit_the_data_says_so(name: str, changes: dict[str, Any], words: str) -> None:
    data = Dataset((), (), False, ("background", "a"), (0, 1), ("red", "green", "blue"), 2, "px")
    check_recipe(name, data)
    with pytest.raises(UserError, match=words):
        check_recipe(name, dataclasses.replace(data, **changes))


def test_an_unknown_preset_is_told_before_any_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nnunet-adamw, nnunet, umamba-cells, isic"):
        mambaseg.train(tmp_path / "nowhere", output=tmp_path / "model", recipe="isik", iterations=1)
