"""Several models in one package: folds average their logits, different models their probabilities."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import official
import tiny_models
from mambaseg import nets, segment
from mambaseg._errors import ModelError
from mambaseg.cli._app import run
from mambaseg.models import Model, load_model
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.importer import import_checkpoint
from mambaseg.models.model import Member
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
    assert [len(networks) for _, networks in larger.built_groups] == [3, 1]


def mean_of_logits(found: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Softmax of the mean logits; the logarithms of probabilities are logits but for a constant a voxel."""
    mean = np.exp(np.mean(np.log(np.asarray(found, np.float64)), axis=0))
    return np.asarray(mean / mean.sum(0))


def save_folds(folder: Path) -> list[Model]:
    """Models as three folds leave them: other cases were counted and measured, which this normalisation ignores."""
    return [tiny_models.save_tiny(folder / f"fold{seed}", kind="classes", seed=seed, batch_size=2 + seed,
                                  batch_dice=seed == 1, intensities=({"mean": 90.0 + seed, "std": 9.0},) * 3)
            for seed in range(3)]


def test_folds_made_one_by_one_average_their_logits(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    folds, other = save_folds(tmp_path), save_other(tmp_path / "other", kind="classes", patch_size=(48, 40))
    single = [probabilities(picture, fold) for fold in folds]
    wanted = mean_of_logits(single)
    assert np.abs(wanted - np.mean(single, axis=0)).max() > 1e-3  # the other way round would be seen
    make_ensemble(folds, tmp_path / "joined")
    joined = load_model(tmp_path / "joined")
    np.testing.assert_allclose(probabilities(picture, joined), wanted, atol=1e-5)
    assert check_package(joined) < 1e-4
    both = make_ensemble([other, *folds], tmp_path / "both")  # folds of a second group have one plan, too
    assert [len(networks) for _, networks in load_model(tmp_path / "both").built_groups] == [1, 3]
    np.testing.assert_allclose(probabilities(picture, both), (probabilities(picture, other) + wanted) / 2, atol=1e-5)


@pytest.mark.parametrize("change", [
    {"patch_size": (48, 32)}, {"spacing": (0.5, 0.5)}, {"features_per_stage": (8, 16, 24)},
    {"normalisation": ("ct",) * 3, "intensities": ({"mean": 90.0, "std": 9.0, "percentile_00_5": 70.0,
                                                    "percentile_99_5": 110.0},) * 3}])
def test_networks_that_see_an_image_otherwise_are_no_folds(tmp_path: Path, change: dict[str, Any]) -> None:
    models = [tiny_models.save_tiny(tmp_path / "one", kind="classes"),
              tiny_models.save_tiny(tmp_path / "two", kind="classes", **change)]
    assert [member.group for member in make_ensemble(models, tmp_path / "both").members] == [1]


def test_imported_folds_are_joined_as_the_importer_joins_them(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0, "fold_1": 0.7, "fold_2": -0.4})
    at_once = import_checkpoint(trainer, tmp_path / "at once")
    folds = [import_checkpoint(trainer / f"fold_{k}", tmp_path / f"fold{k}") for k in range(3)]
    joined = make_ensemble(folds, tmp_path / "joined")
    assert joined.members == at_once.members
    single = [probabilities(picture, fold) for fold in folds]
    found = probabilities(picture, joined)
    np.testing.assert_array_equal(found, probabilities(picture, at_once))
    np.testing.assert_allclose(found, mean_of_logits(single), atol=1e-5)
    assert np.abs(found - np.mean(single, axis=0)).max() > 1e-3


def test_packages_keep_the_way_they_were_joined_by(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    one, two = save_folds(tmp_path)[:2]
    member = Member(two.network, two.network_config, group=1, plan=one.plan, mirror_axes=one.mirror_axes)
    save_package(tmp_path / "old", dataclasses.replace(one, members=(member,)), one.build().state_dict(),
                 members=[two.build().state_dict()])
    wanted = (probabilities(picture, one) + probabilities(picture, two)) / 2
    np.testing.assert_allclose(probabilities(picture, load_model(tmp_path / "old")), wanted, atol=1e-6)


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
