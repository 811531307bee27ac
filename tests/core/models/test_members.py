"""Ensembles in one package: several weights files, each checked, averaged when used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from mambaseg import segment
from mambaseg._errors import ModelError
from mambaseg.models import read_model
from mambaseg.models.model import Member, Model
from mambaseg.models.package import FILES, check_package, load_package, make_test_input, run_test, save_package


def save_ensemble(folder: Path, n_networks: int) -> Model:
    model = tiny_models.tiny_model()
    states = [tiny_models.tiny_state(model, seed) for seed in range(n_networks)]
    return save_package(folder, model, states[0], members=states[1:])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    save_ensemble(tmp_path / "tiny", 3)
    return tmp_path / "tiny"


def test_each_network_has_its_own_file_and_checksum(package: Path) -> None:
    names = {path.name for path in package.iterdir()}
    assert names == {*FILES, "weights_1.safetensors", "weights_2.safetensors"}
    model = load_package(package)
    assert model == save_ensemble(package, 3)
    assert len({model.checksum, *(member.checksum for member in model.members)}) == 3
    networks = model.build_all()
    for seed, network in enumerate(networks):
        wanted = tiny_models.tiny_state(model, seed)
        assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())
    assert model.built_all[0] is model.built
    assert model.built_all is model.built_all


def test_the_test_output_is_the_mean_of_the_networks(package: Path) -> None:
    model = load_package(package)
    values = make_test_input(model)
    expected = np.mean([run_test(network, values) for network in model.build_all()], axis=0)
    np.testing.assert_allclose(np.load(package / "test_output.npy"), expected, atol=1e-6)
    assert check_package(model) < 1e-5


def test_a_segmentation_averages_the_logits(package: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = segment(picture, load_package(package), keep_probabilities=True)
    logits = []
    for seed in range(3):
        single = tiny_models.save_tiny(tmp_path / f"single{seed}", seed=seed)
        one = segment(picture, single, keep_probabilities=True).probabilities
        assert one is not None
        logits.append(np.log(one))
    mean = np.exp(np.mean(logits, axis=0))
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, mean / mean.sum(0), atol=1e-5)
    assert len(found.record["model"]["members"]) == 2


def test_a_package_of_one_network_says_nothing_of_members(tmp_path: Path) -> None:
    saved = tiny_models.save_tiny(tmp_path / "tiny")
    assert "members" not in json.loads((tmp_path / "tiny" / "model.json").read_text())
    assert read_model(tmp_path / "tiny").members == () == saved.members
    assert len(saved.build_all()) == 1


def test_members_may_be_other_networks(tmp_path: Path) -> None:
    model = tiny_models.tiny_model()
    other = Member("umamba-enc", model.network_config)
    with_other = Model(**{**vars(model), "members": (other,)})
    enc = tiny_models.tiny_state(Model(**{**vars(model), "network": "umamba-enc"}))
    save_package(tmp_path / "both", with_other, tiny_models.tiny_state(model), members=[enc])
    assert [len(network.state_dict()) for network in load_package(tmp_path / "both").build_all()] == [
        len(tiny_models.tiny_state(model)), len(enc)]
    with pytest.raises(ModelError, match="names 1 further networks, but weights of 0"):
        save_package(tmp_path / "half", with_other, tiny_models.tiny_state(model))


def test_a_smaller_ensemble_leaves_no_file_of_the_larger(package: Path) -> None:
    (package / "weights_mine.txt").write_text("mine")
    saved = save_ensemble(package, 2)
    assert load_package(package) == saved
    assert {path.name for path in package.iterdir()} == {*FILES, "weights_1.safetensors", "weights_mine.txt"}


def test_a_replacement_that_was_interrupted_is_finished(package: Path, tmp_path: Path) -> None:
    new = save_ensemble(tmp_path / "new", 2)
    (tmp_path / "new").rename(package / ".ready")
    (package / ".ready" / "weights_1.safetensors").replace(package / "weights_1.safetensors")  # as far as it came
    loaded = load_package(package)
    assert loaded.checksum == new.checksum
    assert {path.name for path in package.iterdir()} == {*FILES, "weights_1.safetensors"}


@pytest.mark.parametrize("name", ["weights_1.safetensors", "weights_2.safetensors"])
def test_a_damaged_or_missing_member_is_named(package: Path, name: str) -> None:
    content = bytearray((package / name).read_bytes())
    content[-3] ^= 1
    (package / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}.*checksum"):
        load_package(package)
    (package / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_package(package)


@pytest.mark.parametrize("members", [
    "many", [1], [{"network": "umamba-bot"}], [{"network": "../x", "network_config": {}, "checksum": "0" * 64}],
    [{"network": "umamba-bot", "network_config": {"n_blocks_encoder": [10**6]}, "checksum": "0" * 64}],
    [{"network": "umamba-bot", "network_config": {}, "checksum": "0" * 64}] * 33,
    [{"network": "umamba-bot", "network_config": {}, "checksum": "../weights"}]])
def test_members_that_are_wrong_are_refused(package: Path, members: object) -> None:
    values = json.loads((package / "model.json").read_text())
    (package / "model.json").write_text(json.dumps(values | {"members": members}))
    with pytest.raises(ModelError, match="members"):
        load_package(package)
