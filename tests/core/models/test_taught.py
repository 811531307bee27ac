"""A model that was taught a new kind of pictures: which of its networks answers, and what other programs get."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mambaseg import segment
from mambaseg.bench.pictures import bright, phase
from mambaseg.image import Image
from mambaseg.learn.examples import Example
from mambaseg.learn.inherit import inherit
from mambaseg.models import Model, load_model
from mambaseg.models.domains import representatives, signature
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.exporter import export_model
from mambaseg.models.model import Member
from mambaseg.models.package import save_package
from tiny_models import save_tiny, tiny_model, tiny_state


@pytest.fixture
def taught(tmp_path: Path) -> Model:
    """Two networks: one that was taught drawn phase contrast, and the former one."""
    model = tiny_model(("grey",), kind="classes", normalisation=("zscore",))
    known = representatives([signature(bright(seed)[0][None]) for seed in range(8)])
    member = Member(model.network, model.network_config, is_former=True)
    model = dataclasses.replace(model, trained_on=known, taught=(signature(phase(0)[0][None]),), members=(member,))
    save_package(tmp_path / "taught", model, tiny_state(model, 1), members=[tiny_state(model, 2)])
    return load_model(tmp_path / "taught")


def test_each_kind_of_picture_is_answered_by_its_network(taught: Model) -> None:
    former = taught.parts["weights_1.safetensors"]
    for picture, expected in ((phase(5)[0], taught.alone()), (bright(50)[0], former)):
        found = segment(picture, taught, keep_probabilities=True)
        alone = segment(picture, expected, keep_probabilities=True)
        assert found.probabilities is not None
        np.testing.assert_array_equal(found.probabilities, alone.probabilities)
        is_former = expected is former
        assert found.record["model"].get("answered_by") == (former.checksum if is_former else None)
        assert any("another kind" in note for note in found.record["notes"]) == is_former


def test_ensembles_and_exports_take_what_was_taught_last(taught: Model, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", channels=("grey",), kind="classes", name="other")
    assert len(load_model(make_ensemble([taught, other], tmp_path / "both").folder or "").members) == 1
    exported = export_model(taught, "nnunet", tmp_path / "exported")
    assert "kind of images that the model learned last" in exported.notes[0]
    assert [path.name for path in (tmp_path / "exported").glob("fold_*")] == ["fold_0"]


def test_a_stranger_is_learned_beside_what_answered_for_it_until_all_was_corrected_again(taught: Model) -> None:
    """That the newest network answers for a picture does not mean that it may forget its own kind for it."""
    rows, columns = np.mgrid[:160, :160]
    waves, taught_picture = np.sin(columns / 30) * np.cos(rows / 20), phase(0)[0]
    other = signature(waves[None])
    assert taught.suited(other) is taught
    corrected = {name: Example(Image.from_array(picture.astype(np.float32)), np.ones(picture.shape, np.int32))
                 for name, picture in (("waves", waves), ("phase", taught_picture), ("more", phase(1)[0]))}

    beside = inherit(taught, [corrected["waves"]], ()).child
    assert beside.taught == (other,)
    assert [member.taught for member in beside.members] == [taught.taught, ()]
    again = inherit(taught, [corrected["waves"], corrected["phase"]], ()).child
    assert [member.taught for member in again.members] == [()]
    more = inherit(taught, [corrected["more"]], ()).child
    assert set(taught.taught) < set(more.taught)
    assert [member.taught for member in more.members] == [()]
