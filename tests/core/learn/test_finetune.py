"""Thorough learning: better on the new kind, honest about it, and nothing half-done whatever happens."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mambaseg
from discs import touching_discs
from mambaseg._errors import UserError
from mambaseg.bench.pictures import bright, phase
from mambaseg.instances import Decoder, relative_depth
from mambaseg.learn import decoding
from mambaseg.learn.examples import Example
from mambaseg.learn.finetune import Tuned
from mambaseg.learn.objective import FREE, Policy, SparseObjective, freeze
from mambaseg.learn.simulate import correct_region
from mambaseg.metrics import f1
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.train.loader import Batch
from mambaseg.train.sample import UNLABELLED
from tiny_models import save_tiny

POLICY = Policy(rate=3e-3, rehearse=2.0, rehearsal_share=0.25, patch_size=64)  # of a network made in seconds


def score(model: Model, draw: Any = phase) -> float:
    pictures = [draw(seed) for seed in (100, 101, 102)]
    return float(np.mean([f1(labels, mambaseg.segment(image, model).labels) for image, labels in pictures]))


@pytest.fixture(scope="module")
def corrected(discs_model: Model) -> Example:
    image, truth = phase(0, 160, 20)
    corrections, labels = correct_region(truth, mambaseg.segment(image, discs_model).labels, 12)
    return Example(mambaseg.Image.from_array(image), corrections, labels)


@pytest.fixture(scope="module")
def tuned(discs_model: Model, corrected: Example) -> Tuned:
    return mambaseg.finetune(discs_model, [corrected], None, iterations=50, policy=POLICY)


def test_a_few_objects_of_a_new_kind_are_enough_to_find_them(discs_model: Model, tuned: Tuned, tmp_path: Path) -> None:
    assert score(discs_model) < 0.2
    model = tuned.save(tmp_path / "my discs")
    assert score(model) > 0.7
    assert load_model(tmp_path / "my discs").name == "my-discs"


def test_what_was_kept_aside_tells_before_and_after(tuned: Tuned) -> None:
    assert tuned.before.n_units == tuned.after.n_units >= 2
    assert tuned.before.mean < 0.3
    assert tuned.after.mean > 0.5
    assert "kept aside" in tuned.judgement.sentence


def test_the_new_model_names_its_parent_and_what_it_learned_from(discs_model: Model, tuned: Tuned,
                                                                 tmp_path: Path) -> None:
    model = load_model(tuned.save(tmp_path / "new").folder or "")
    assert model.parent == {"name": discs_model.name, "checksum": discs_model.checksum}
    assert model.training["n_labelled_voxels"] > 0
    assert model.scores["kept_aside"]["after"]["n_units"] == tuned.after.n_units
    assert load_model(discs_model.folder or "").checksum == discs_model.checksum  # the parent is untouched


def test_a_new_kind_is_learned_beside_the_old_one(discs_model: Model, tuned: Tuned, tmp_path: Path) -> None:
    """Pictures of the old kind keep every voxel; learning more of the new kind goes on where it stopped."""
    model = load_model(tuned.save(tmp_path / "taught").folder or "")
    assert any("beside what it knows" in note for note in tuned.notes)
    assert any("several images teach more" in note for note in tuned.notes)
    image, _ = bright(100)
    np.testing.assert_array_equal(mambaseg.segment(image, model).labels, mambaseg.segment(image, discs_model).labels)
    assert tuned.forgetting is not None
    assert tuned.forgetting.points == 0

    image, truth = phase(1, 160, 20)
    found = mambaseg.segment(image, model)
    assert "answered_by" not in found.record["model"]
    more = mambaseg.finetune(model, [(image, *correct_region(truth, found.labels, 4))], None, iterations=1)
    assert more.before.mean > 0.5
    assert len(more.model.members) == 1
    assert len(more.model.taught) == 2


def test_objects_of_the_new_kind_are_told_apart_by_their_own_size(discs_model: Model, tuned: Tuned,
                                                                  corrected: Example, tmp_path: Path) -> None:
    """What is much smaller than any corrected object is debris; the former network keeps its own rule."""
    new = tuned.save(tmp_path / "new")
    assert new.decoder is not None
    sizes = np.bincount(corrected.corrections.ravel())[2:]
    assert 10 < new.decoder["min_size"] <= np.percentile(sizes[sizes > 0], 10)
    image, _ = phase(101)
    assert min(np.bincount(mambaseg.segment(image, new).labels.ravel())) >= new.decoder["min_size"]
    assert new.formers[0].decoder == discs_model.decoder
    record = mambaseg.segment(bright(101)[0], new).record
    assert record["settings"]["decoder"] == discs_model.decoder


@pytest.mark.parametrize(("n_objects", "size"), [(1, None), (2, 16.0), (3, 16.0)])
def test_two_whole_objects_are_enough_to_tell_debris(tmp_path: Path, n_objects: int, size: float | None) -> None:
    labels = np.full((64, 64), UNLABELLED, np.int32)
    for number in range(1, n_objects + 1):
        labels[16 * number:16 * number + 8, 8:16] = number
    labels[20:30, 60:] = 9  # the edge cuts it
    model = save_tiny(tmp_path / "model", channels=("grey",))
    example = Example(mambaseg.Image.from_array(np.zeros(labels.shape, np.float32)), np.zeros_like(labels))
    assert decoding.smallest_size(model, [example], [labels]) == size


def test_necks_of_the_corrected_objects_decide_how_firmly_is_split(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumb-bells that are one object each fall apart under the usual setting; under the fitted one they hold."""
    y, x = np.mgrid[:96, :96]
    truth = np.zeros((96, 96), np.int32)
    for number, (row, column) in enumerate([(16, 12), (16, 58), (46, 12), (46, 58), (78, 12), (78, 58)], 1):
        for side in (0, 22):
            truth[(y - row) ** 2 + (x - column - side) ** 2 <= 49] = number
        truth[(abs(y - row) <= 2) & (x >= column) & (x <= column + 22)] = number
    model = dataclasses.replace(save_tiny(tmp_path / "model", channels=("grey",)), decoder={"split": 0.75})
    answer = np.stack([truth == 0, truth > 0, np.zeros_like(truth)]).astype(np.float32)
    monkeypatch.setattr(decoding, "segment_around", lambda *_, **__: SimpleNamespace(probabilities=answer))
    image = mambaseg.Image.from_array(np.zeros(truth.shape, np.float32))
    fitted = decoding.fit_decoder(model, [Example(image, truth + 1)], [truth])
    assert fitted is not None
    objects = [Decoder(**settings).decode(answer).max() for settings in (model.decoder or {}, fitted)]
    assert objects == [12, 6]
    own = (model.decoder or {}).get("split", Decoder.split)
    nearer = [split for split in decoding._SPLITS if abs(split - own) < abs(fitted["split"] - own)]
    assert all(Decoder(**fitted | {"split": split}).decode(answer).max() != 6 for split in nearer)
    assert min(decoding._SPLITS) < fitted["split"]


def test_a_known_kind_changes_the_network_itself(discs_model: Model) -> None:
    image, truth = bright(50)
    found = mambaseg.segment(image, discs_model).labels
    tuned = mambaseg.finetune(discs_model, [(image, *correct_region(truth, found, 4))], None, iterations=1)
    assert tuned.model.members == ()
    assert tuned.model.taught == ()


def test_an_old_kind_is_learned_without_touching_the_new(discs_model: Model, tuned: Tuned, tmp_path: Path) -> None:
    """Three networks at most: the corrected old pictures', the taught ones', and the first."""
    model = tuned.save(tmp_path / "taught")
    image, truth = bright(50)
    found = mambaseg.segment(image, model).labels
    third = mambaseg.finetune(model, [(image, *correct_region(truth, found, 4))], None, iterations=1)
    saved = load_model(third.save(tmp_path / "third").folder or "")
    assert [member.is_former for member in saved.members] == [True, True]
    shown = phase(101)[0]
    np.testing.assert_array_equal(mambaseg.segment(shown, saved).labels, mambaseg.segment(shown, model).labels)


@pytest.mark.slow
def test_going_over_the_old_kind_again_keeps_it(discs_model: Model, corrected: Example, tmp_path: Path) -> None:
    """With its own pictures at hand, the old kind stays; and the second score says so."""
    import tifffile

    for part in ("images", "labels"):
        (tmp_path / "old" / part).mkdir(parents=True)
    for seed in range(6):
        image, labels = bright(seed)
        tifffile.imwrite(tmp_path / "old" / "images" / f"{seed}.tif", image)
        tifffile.imwrite(tmp_path / "old" / "labels" / f"{seed}.tif", labels.astype(np.uint16))
    policy = dataclasses.replace(POLICY, rehearsal_share=0.5)
    tuned = mambaseg.finetune(discs_model, [corrected], None, iterations=60, policy=policy,
                              parent_data=tmp_path / "old")
    assert tuned.forgetting is not None
    assert "old pictures" in tuned.forgetting.on
    assert tuned.forgetting.before > 0.9
    assert tuned.forgetting.after > 0.8
    assert tuned.after.mean > tuned.before.mean + 0.2


def test_a_class_that_the_model_lacks_gets_room_and_the_old_ones_stay(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "two", kind="classes", channels=("grey",), name="two")
    image = np.random.default_rng(0).normal(size=(48, 48)).astype(np.float32)
    corrections = np.zeros((48, 48), np.int32)
    corrections[:8], corrections[20:28] = 1, 4  # background, and class 3
    with pytest.raises(UserError, match=r"class 3.*--add-class"):
        mambaseg.finetune(model, [(image, corrections)], None, iterations=1)
    tuned = mambaseg.finetune(model, [(image, corrections)], None, iterations=1, new_classes=("tumour",))
    grown = load_model(tuned.save(tmp_path / "grown").folder or "")
    assert grown.classes == ("background", "front", "back", "tumour")
    old, new = (m.build().state_dict()["decoder.seg_layers.1.weight"] for m in (model, grown))
    assert torch.allclose(old, new[:3], atol=0.01)
    with pytest.raises(UserError, match='"front" already'):
        mambaseg.finetune(model, [(image, corrections)], None, iterations=1, new_classes=("front",))


def test_one_slice_of_a_volume_is_learned_from(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "volume", kind="classes", channels=("MR",), ndim=3, name="volume")
    volume = np.random.default_rng(0).normal(size=(16, 20, 18)).astype(np.float32)
    corrections = np.zeros(volume.shape, np.int32)
    corrections[8] = 1
    corrections[8, 5:12, 5:12] = 2
    tuned = mambaseg.finetune(model, [(volume, corrections)], None, iterations=2)
    assert tuned.model.training["n_labelled_voxels"] == 20 * 18
    assert tuned.model.training["policy"]["batch_size"] == 2  # two volumes an iteration
    assert np.isfinite(next(iter(tuned.state.values())).numpy()).all()


# --- what cannot be learned from --------------------------------------------------------------------------------------

def stripes() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    corrections = np.zeros((40, 40), np.int32)
    corrections[:10], corrections[20:30] = 1, 2
    return image, corrections


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda image, corrections: [(image, corrections[:-1])], "shape"),
    (lambda image, corrections: [(image, 0 * corrections)], "no corrections"),
    (lambda image, corrections: [], "no corrections"),
    (lambda image, corrections: [(image, corrections - 1)], "from 0 on"),
    (lambda image, corrections: [(image, corrections.astype(float))], "whole numbers"),
    (lambda image, corrections: [(image, corrections), (image.copy(), (corrections > 0) * (3 - corrections))],
     "contradict"),
    (lambda image, corrections: [(image, corrections, 0 * corrections)], "differ from the corrections"),
])
def test_unusable_corrections_are_told_in_one_sentence(tmp_path: Path, spoil: Any, said: str) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")
    with pytest.raises(UserError, match=said) as caught:
        mambaseg.finetune(model, spoil(*stripes()), None, iterations=1)
    assert "\n" not in str(caught.value)


def test_one_class_only_is_noted(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")
    image, corrections = stripes()
    tuned = mambaseg.finetune(model, [(image, 2 * (corrections == 2))], None, iterations=1)
    assert 'All corrections say "front"' in tuned.notes[0]


# --- interruptions ----------------------------------------------------------------------------------------------------

def test_cancel_and_resume(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")

    def stop_at_two(update: mambaseg.Progress) -> None:
        if update.stage == "Training" and update.done == 2:
            raise mambaseg.Cancelled

    with pytest.raises(mambaseg.Cancelled):
        mambaseg.finetune(model, [stripes()], None, iterations=4, work=tmp_path / "work", progress=stop_at_two)
    done: list[int] = []
    mambaseg.finetune(model, [stripes()], None, iterations=4, work=tmp_path / "work", resume=True,
                      progress=lambda update: done.append(update.done) if update.stage == "Training" else None)
    assert done == [3, 4]


@pytest.mark.slow
def test_a_kill_while_learning_leaves_the_old_model_or_the_whole_new_one(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")
    target = tmp_path / "target"
    save_tiny(target, kind="classes", channels=("grey",), name="target", seed=1)
    old = load_model(target).checksum
    code = ("import numpy as np, mambaseg\n"
            f"image = np.random.default_rng(0).normal(size=(40, 40)).astype('float32')\n"
            f"marks = np.zeros((40, 40), int); marks[:10] = 1; marks[20:30] = 2\n"
            f"model = mambaseg.load_model({str(model.folder)!r})\n"
            f"while True:\n"
            f"    tuned = mambaseg.finetune(model, [(image, marks)], None, iterations=1)\n"
            f"    print('saving', flush=True)\n"
            f"    tuned.save({str(target)!r})\n")
    for delay_s in (0.0, 0.01, 0.03):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "saving\n"
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = load_model(target)  # checks every file against its checksum
        assert found.checksum == old or found.parent == {"name": "model", "checksum": model.checksum}
        assert found.build() is not None


# --- the objective ----------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory to ask for")
@pytest.mark.parametrize(("name", "shape"), [("nuclei-2d", (512, 512)), ("hippocampus-mri", (40, 56, 40))])
def test_learning_fits_in_4_gib(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    code = """
import resource, sys
import numpy as np
import mambaseg
shape = tuple(map(int, sys.argv[2:]))
image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
corrections = np.ones(shape, np.int32)
for number in range(12):
    corrections[tuple(slice(3 * number + 1, 3 * number + 3) for _ in shape)] = 2
mambaseg.finetune(mambaseg.load_model(sys.argv[1]), [(image, corrections)], None, iterations=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code, name, *map(str, shape)], capture_output=True, text=True,
                          check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 4 * 2**30


def test_a_model_of_depths_goes_on_learning_depths(tmp_path: Path) -> None:
    """Classes in their place would level the hills that tell touching objects apart."""
    blank = save_tiny(tmp_path / "blank", channels=("grey",))
    parent = save_package(tmp_path / "parent", dataclasses.replace(blank, decoder={"method": "distance"}),
                          dict(blank.built.state_dict()))
    examples = [Example(mambaseg.Image.from_array(image), np.where(np.arange(64) < 56, labels + 1, 0).astype(np.int32))
                for image, labels in map(touching_discs, range(3))]
    policy = dataclasses.replace(FREE, rate=1e-2, patch_size=48)
    tuned = mambaseg.finetune(parent, examples, None, iterations=50, policy=policy, hold_out=0.0)
    image, truth = touching_discs(8)
    result = mambaseg.segment(image, tuned.save(tmp_path / "taught"), keep_probabilities=True)
    assert f1(truth, result.labels) > 0.8
    _, interior, boundary = result.probabilities
    apart = np.abs(interior / (interior + boundary) - relative_depth(truth))[truth > 0].mean()
    assert apart < 0.18  # interior everywhere and boundary around it would be 0.41 away, two equal halves 0.27


def test_unlabelled_voxels_move_nothing_but_by_the_teacher(tmp_path: Path) -> None:
    """Without distillation an unlabelled voxel has no gradient; with it, none as long as teacher and pupil agree."""
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")
    network, teacher = model.build(), model.build()
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    target = torch.full((2, 1, 32, 32), UNLABELLED)
    target[0, 0, :4] = 1
    for policy in (Policy(distil=0.0, rehearsal_share=0.0), Policy(distil=1.0, rehearse=1.0)):
        logits = network(image).detach().requires_grad_(True)
        SparseObjective(teacher, policy, 3)([logits], Batch(image, target)).backward()
        assert logits.grad is not None
        assert logits.grad[0, :, :4].abs().max() > 1e-4
        assert logits.grad[0, :, 4:].abs().max() < 1e-6
        assert logits.grad[1].abs().max() < 1e-6


def test_where_the_former_model_is_followed_costs_what_the_divergence_says(tmp_path: Path) -> None:
    """A patch without labels counts five times its divergence, the unlabelled voxels of another one nothing."""
    model = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model")
    teacher, random = model.build(), torch.Generator().manual_seed(0)
    image, logits = (torch.randn(2, channels, 32, 32, generator=random) for channels in (1, 3))
    target = torch.full((2, 1, 32, 32), UNLABELLED)
    target[0, 0, :16] = 1
    batch = Batch(image, target)
    alone, followed = (SparseObjective(teacher, policy, 3)([logits], batch)
                       for policy in (Policy(rehearsal_share=0.0), Policy(rehearse=5.0)))
    with torch.no_grad():
        former = teacher(image)
    former = (former[0] if isinstance(former, list | tuple) else former).log_softmax(1)
    apart = (former.exp() * (former - logits.log_softmax(1))).sum(1)
    n_unlabelled = 16 * 32 + 32 * 32
    torch.testing.assert_close(followed - alone, 5 * apart[1].sum() / n_unlabelled, rtol=1e-4, atol=1e-6)


def test_frozen_stages_stay(tmp_path: Path) -> None:
    network: Any = save_tiny(tmp_path / "model", kind="classes", channels=("grey",), name="model").build()
    freeze(network, 2)
    assert not any(weight.requires_grad for weight in network.encoder.stages[1].parameters())
    assert all(weight.requires_grad for weight in network.encoder.stages[2].parameters())
