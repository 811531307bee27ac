"""A cascade is one package, and what it finds is what its two stages find by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from cascades import balls, save_cascade, save_stage
from mambaseg import Cancelled, Image, Progress, estimate, load_model, segment
from mambaseg._errors import ModelError
from mambaseg.learn.finetune import finetune
from mambaseg.learn.head import InstantSession
from mambaseg.models import Model
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.exporter import export_model
from mambaseg.models.folder import copy_package
from mambaseg.models.package import check_package
from mambaseg.predict.blend import probabilities_to_labels
from mambaseg.predict.run import predict_logits, to_frame
from mambaseg.prepare import prepare
from mambaseg.resample import resample_labels
from mambaseg.segmentation import calibrate


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cascade(tmp_path_factory.mktemp("models") / "cascade").folder


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "package"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "_known", {})


def by_hand(image: Image, first: Model, second: Model) -> np.ndarray:
    """Labels of the second stage, from arrays: nothing of a cascade is used."""
    spacing, frame = image.grid.spacing, image.data[None]
    found = segment(image, first).labels
    prepared = prepare(frame, spacing, second.plan)
    box = tuple(slice(*part) for part in prepared.crop)
    signed = found[box].astype(int)
    signed[(signed == 0) & (image.data[box] == 0)] = -1  # as nnU-Net marks what it crops by; the volume has no holes
    placed = resample_labels(signed, prepared.array.shape[1:], spacing, prepared.plan_spacing)
    channels = [placed == label for label in second.foreground_labels]
    seen = np.concatenate([prepared.array, np.stack(channels).astype(np.float32)])
    logits = predict_logits([second.build()], seen, second.plan, n_classes=second.n_outputs)
    probabilities = to_frame(logits, prepared, second.kind)
    return probabilities_to_labels(probabilities, second.kind, second.region_order or None)


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_labels_are_those_of_two_stages_by_hand(tmp_path: Path, kind: str) -> None:
    cascade = load_model(save_cascade(tmp_path / "cascade", kind).folder)
    image, _ = balls(0, (1.4, 1.0, 0.8))
    image.data[:, :5] = 0  # a rim to be cropped away
    first = load_model(tmp_path / "cascade-first")
    found = segment(image, cascade)
    expected = by_hand(image, first, cascade)
    np.testing.assert_array_equal(found.labels, expected)
    assert len(np.unique(found.labels)) > 1
    blind = by_hand(image, load_model(save_stage(tmp_path / "other", 5, kind=kind).folder), cascade)
    assert (blind != expected).any()  # what the first stage finds matters
    assert found.record["model"]["previous"]["checksum"] == first.checksum
    assert found.record["model"]["checksum"] == cascade.checksum


def test_a_region_gets_what_the_whole_image_gets(saved: Path) -> None:
    image, _ = balls(1)
    whole = segment(image, saved).labels
    part = segment(image, saved, roi=((2, 5), (4, 10), (3, 9))).labels
    np.testing.assert_array_equal(part[2:5, 4:10, 3:9], whole[2:5, 4:10, 3:9])
    assert not part[5:].any()


def test_an_unknown_voxel_size_is_that_of_the_full_resolution(saved: Path) -> None:
    known, _ = balls(2)
    unknown, _ = balls(2, unit="px")
    np.testing.assert_array_equal(segment(unknown, saved).labels, segment(known, saved).labels)


def test_progress_counts_both_stages_and_either_can_be_cancelled(saved: Path) -> None:
    image, _ = balls(0)
    seen: list[Progress] = []
    segment(image, saved, progress=seen.append)
    total = seen[0].total
    assert {update.total for update in seen} == {total}
    done = [update.done for update in seen]
    assert done == sorted(done)
    assert done[-1] == total == estimate(image, saved).n_windows
    n_first = segment_windows(image, saved / "previous")
    assert 0 < n_first < total
    for stop_at in (1, n_first + 1):
        with pytest.raises(Cancelled):
            segment(image, saved, progress=stop_when(stop_at))


def segment_windows(image: Image, model: Path) -> int:
    seen: list[Progress] = []
    segment(image, model, progress=seen.append)
    return seen[-1].total


def stop_when(done: int) -> Callable[[Progress], None]:
    def stop(update: Progress) -> None:
        if update.done == done:
            raise Cancelled

    return stop


def test_the_estimate_counts_both_stages(saved: Path) -> None:
    image, _ = balls(0)
    both, first = estimate(image, saved), estimate(image, saved / "previous")
    assert both.n_windows > first.n_windows
    assert both.memory_bytes > 0
    assert both.seconds > 0


def test_both_networks_are_checked_against_their_test_outputs(package: Path) -> None:
    assert check_package(load_model(package)) < 1e-5
    expected = np.load(package / "previous" / "test_output.npy")
    np.save(package / "previous" / "test_output.npy", expected + np.float32(0.5))
    assert check_package(load_model(package)) == pytest.approx(0.5, abs=1e-4)


def test_a_copy_holds_both_and_loads(saved: Path, tmp_path: Path) -> None:
    copy_package(load_model(saved), tmp_path / "copy")
    assert load_model(tmp_path / "copy") == dataclasses.replace(load_model(saved), folder=tmp_path / "copy")


def changed_json(folder: Path) -> None:
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(values | {"keep_largest": [[1]]}))


def other_first_stage(folder: Path) -> None:
    shutil.rmtree(folder)
    save_stage(folder, 9)


def cut_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def flipped_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def a_cascade_again(folder: Path) -> None:
    copied = folder.with_name("copied")
    shutil.copytree(folder.parent, copied, ignore=shutil.ignore_patterns("copied"))
    shutil.rmtree(folder)
    copied.rename(folder)


@pytest.mark.parametrize(("damage", "words"), [
    (shutil.rmtree, r"previous.*model\.json"), (changed_json, "checksum of its model.json"),
    (other_first_stage, "checksum of its model.json"), (cut_weights, "weights"), (flipped_weights, "checksum"),
    (a_cascade_again, "is a cascade"), (lambda folder: (folder / "weights.safetensors").unlink(), "weights")])
def test_a_damaged_first_stage_is_told(package: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(package / "previous")
    with pytest.raises(ModelError, match=words) as caught:
        load_model(package)
    assert "\n" not in str(caught.value)


def test_a_cascade_replaces_a_model_and_a_model_a_cascade(package: Path, tmp_path: Path) -> None:
    (package / "previous" / "old.txt").write_text("of the old one")
    first = save_stage(tmp_path / "first", 7)
    save_stage(package, 8, first)
    assert load_model(package).stages[0].checksum == first.checksum
    assert not (package / "previous" / "old.txt").exists()
    save_stage(package, 9)
    assert load_model(package).stages == (load_model(package),)


def test_a_replacement_that_was_interrupted_is_finished(package: Path, tmp_path: Path) -> None:
    first = save_stage(tmp_path / "first", 7)
    new = save_stage(tmp_path / "new", 8, first)
    shutil.copytree(new.folder, package / ".ready")
    shutil.rmtree(package / "previous")
    (package / ".ready" / "previous").rename(package / "previous")  # as far as the program came
    loaded = load_model(package)
    assert (loaded.checksum, loaded.stages[0].checksum) == (new.checksum, first.checksum)


@pytest.mark.parametrize("work", [
    lambda model, folder: make_ensemble([model, model], folder),
    lambda model, folder: export_model(model, "bioimageio", folder),
    lambda model, folder: finetune(model, [(balls(0)[0], balls(0)[1])], minutes=0.01),
    lambda model, folder: InstantSession(model, balls(0)[0]),
    lambda model, folder: save_stage(folder, 3, model)])
def test_what_a_cascade_cannot_do_is_told_in_a_sentence(saved: Path, tmp_path: Path,
                                                        work: Callable[[Model, Path], object]) -> None:
    with pytest.raises(ModelError, match="cascade") as caught:
        work(load_model(saved), tmp_path / "new")
    assert str(caught.value).count(". ") == 0
    assert not (tmp_path / "new").exists()


def test_a_first_stage_of_other_classes_is_refused(tmp_path: Path) -> None:
    first = save_stage(tmp_path / "first")
    other = dataclasses.replace(first, classes=("background", "left", "right"))
    with pytest.raises(ModelError, match="has the classes background, left, right, but"):
        save_stage(tmp_path / "second", previous=other)


def test_objects_and_pictures_have_no_cascades() -> None:
    for model in (tiny_models.tiny_model(ndim=3), tiny_models.tiny_model(kind="classes")):
        values = dataclasses.replace(model, previous="0" * 64, checksum="0" * 64).to_json()
        with pytest.raises(ModelError, match="previous"):
            Model.from_json(values, "model.json")
