"""Different networks with different plans in one package, which averages their probabilities."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny_models
from mambaseg import nets, segment
from mambaseg._errors import ModelError
from mambaseg.cli._app import run
from mambaseg.models import Model, load_model
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.package import check_package, save_package


def save_other(folder: Path, network: str = "umamba-enc", seed: int = 1, **changes: Any) -> Model:
    """A package of another network than `tiny_models.save_tiny` makes."""
    model = tiny_models.tiny_model(**changes)
    config = nets.config_from_plan(model.plan, model.n_channels, model.n_outputs, network=network)
    if network == "vmunet":
        config |= {"width": 8, "depths": [1, 1], "depths_decoder": [1, 1]}
    model = dataclasses.replace(model, name=folder.name, network=network, network_config=config)
    return save_package(folder, model, tiny_models.tiny_state(model, seed))


def probabilities(image: NDArray[Any], model: Model, **settings: Any) -> NDArray[np.float32]:
    found = segment(image, model, keep_probabilities=True, **settings).probabilities
    assert found is not None
    return found


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (41, 60, 3), np.uint8)


def test_networks_with_their_own_plans_average_their_probabilities(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    one = tiny_models.save_tiny(tmp_path / "one", kind="classes")
    two = save_other(tmp_path / "two", kind="classes", patch_size=(48, 40), normalisation=("zscore",) * 3)
    three = save_other(tmp_path / "three", "vmunet", kind="classes", patch_size=(64, 32), fit="bilinear")
    assert run(["ensemble", str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "three"),
                "-o", str(tmp_path / "all")]) == 0
    ensemble = load_model(tmp_path / "all")
    assert [part.plan for part in ensemble.parts.values()] == [one.plan, two.plan, three.plan]
    seen = []
    found = probabilities(picture, ensemble, tta=True, progress=seen.append)
    wanted = np.mean([probabilities(picture, model, tta=True) for model in (one, two, three)], axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert check_package(ensemble) < 1e-4
    shares = [update.done / update.total for update in seen if update.stage == "Segmenting"]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_folds_stay_together_with_their_logits_averaged(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    model = tiny_models.tiny_model(kind="classes")
    folds = save_package(tmp_path / "folds", model, tiny_models.tiny_state(model, 0),
                         members=[tiny_models.tiny_state(model, 1)])
    other = save_other(tmp_path / "other", kind="classes")
    ensemble = make_ensemble([folds, other], tmp_path / "both")
    again = make_ensemble([other, folds], tmp_path / "again")
    wanted = (probabilities(picture, folds) + probabilities(picture, other)) / 2  # not a third each
    np.testing.assert_allclose(probabilities(picture, ensemble), wanted, atol=1e-6)
    np.testing.assert_allclose(probabilities(picture, again), wanted, atol=1e-6)
    larger = make_ensemble([ensemble, tiny_models.save_tiny(tmp_path / "last", kind="classes", seed=5)],
                           tmp_path / "larger")
    assert [len(networks) for _, networks in larger.built_groups] == [2, 1, 1]


def test_slices_and_volumes_are_seen_together(tmp_path: Path) -> None:
    planar = tiny_models.save_tiny(tmp_path / "planar", kind="classes", channels=("T1",))
    spatial = tiny_models.save_tiny(tmp_path / "spatial", kind="classes", channels=("T1",), ndim=3)
    ensemble = make_ensemble([planar, spatial], tmp_path / "both")
    volume = np.random.default_rng(0).normal(size=(9, 30, 41)).astype(np.float32)
    wanted = (probabilities(volume, planar) + probabilities(volume, spatial)) / 2
    np.testing.assert_allclose(probabilities(volume, ensemble), wanted, atol=1e-6)
    assert check_package(load_model(tmp_path / "both")) < 1e-4
    with pytest.raises(ModelError, match="takes 3-D volumes"):
        segment(volume[0], ensemble)


@pytest.mark.parametrize(("changes", "said"), [
    ({"kind": "regions"}, "the kind regions, but one has classes"),
    ({"kind": "classes", "channels": ("DAPI",)}, "the channels DAPI, but one has red, green, blue"),
])
def test_models_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    tiny_models.save_tiny(tmp_path / "one", kind="classes", name="one")
    tiny_models.save_tiny(tmp_path / "two", name="two", **changes)
    with pytest.raises(ModelError, match=said):
        make_ensemble([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_one_model_is_no_ensemble_and_none_is_overwritten(tmp_path: Path) -> None:
    one = tiny_models.save_tiny(tmp_path / "one")
    with pytest.raises(ModelError, match="two or more"):
        make_ensemble([one], tmp_path / "both")
    with pytest.raises(ModelError, match="another folder"):
        make_ensemble([one, one], tmp_path / "one")


@pytest.mark.parametrize("network", ["vmunet", "umamba-bot"])
def test_a_patch_that_a_network_cannot_take_is_refused_before_it_is_used(tmp_path: Path, network: str) -> None:
    with pytest.raises(ModelError, match=rf"plan\.patch_size.*{network}.*multiples of"):
        save_other(tmp_path / "odd", network, kind="classes", patch_size=(30, 32))
