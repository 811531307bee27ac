"""Training as a user meets it: a folder in, a model package out, and nothing lost on the way."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import mambaseg
from discs import SIDE, write_dataset
from mambaseg._errors import DatasetError, UserError
from mambaseg.progress import Progress
from mambaseg.train.checkpoint import load_checkpoint
from mambaseg.train.dataset import open_dataset


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("discs") / "set", label_type="instance", name="discs",
                         licence="CC0-1.0")


def test_a_folder_becomes_a_model_that_segments(discs: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    model = mambaseg.train(discs, output=tmp_path / "my discs", iterations=40, progress=seen.append)
    assert {p.stage for p in seen} >= {"Reading", "Training", "Scoring"}
    assert model.kind == "instances"
    assert model.training["iterations"] == 40
    assert model.training["data"] == {"name": "discs", "licence": "CC0-1.0"}
    assert (tmp_path / "my discs" / "model.json").is_file()
    loaded = mambaseg.load_model(tmp_path / "my discs")
    assert loaded.scores["n_images"] == 2
    assert loaded.scores["f1@0.5"] > 0.8  # four bright discs on a dark ground are learnt in seconds
    result = mambaseg.segment(mambaseg.read(discs / "images" / "case0.tif"), loaded)
    assert result.labels.max() == 4


def test_classes_keep_their_names_and_values(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", instances=False, label_type="semantic", labels={"background": 0, "disc": 1})
    model = mambaseg.train(data, output=tmp_path / "model", network="umamba-enc", iterations=2)
    assert model.kind == "classes"
    assert model.classes == ("background", "disc")
    assert set(model.scores["dice"]) <= {"disc"}
    assert model.network == "umamba-enc"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vmunet", "unetv2"])
def test_the_networks_of_the_other_papers_train_the_same_way(discs: Path, tmp_path: Path, network: str) -> None:
    model = mambaseg.train(discs, output=tmp_path / "model", network=network, iterations=1)
    assert model.network == network
    assert all(side % 32 == 0 for side in model.plan.patch_size)
    assert mambaseg.segment(mambaseg.read(discs / "images" / "case0.tif"), model).labels.shape == (SIDE, SIDE)


@pytest.mark.slow
def test_a_planar_network_learns_the_slices_of_volumes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", n=2, instances=False)
    for part, case in itertools.product(("images", "labels"), range(2)):
        plane = tifffile.imread(data / part / f"case{case}.tif")
        tifffile.imwrite(data / part / f"case{case}.tif", np.stack([plane] * 3), photometric="minisblack",
                         metadata={"axes": "ZYX"})
    model = mambaseg.train(data, output=tmp_path / "model", network="unetv2", iterations=1, batch_size=2)
    assert model.plan.ndim == 2
    volume = mambaseg.read(data / "images" / "case0.tif")
    assert mambaseg.segment(volume, model).labels.shape == (3, SIDE, SIDE)


def test_cancel_keeps_the_state_and_resume_goes_on(discs: Path, tmp_path: Path) -> None:
    def stop_at_three(progress: Progress) -> None:
        if progress.stage == "Training" and progress.done == 3:
            raise mambaseg.Cancelled

    output = tmp_path / "model"
    with pytest.raises(mambaseg.Cancelled):
        mambaseg.train(discs, output=output, iterations=6, progress=stop_at_three)
    assert not output.exists()
    assert load_checkpoint(tmp_path / "model.training" / "last.pt").iteration == 3
    trained: list[int] = []
    mambaseg.train(discs, output=output, iterations=6, resume=True,
                   progress=lambda p: trained.append(p.done) if p.stage == "Training" else None)
    assert trained == [4, 5, 6]
    assert mambaseg.load_model(output).training["iterations"] == 6


@pytest.mark.slow
def test_a_killed_training_resumes(discs: Path, tmp_path: Path) -> None:
    code = (f"import mambaseg; from mambaseg.train import loop; loop._CHECKPOINT_EVERY_S = 0; "
            f"mambaseg.train({str(discs)!r}, output={str(tmp_path / 'model')!r}, iterations=400)")
    child = subprocess.Popen([sys.executable, "-c", code])
    last = tmp_path / "model.training" / "last.pt"
    while not last.is_file() and child.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = load_checkpoint(last).iteration
    assert 0 < done < 400
    model = mambaseg.train(discs, output=tmp_path / "model", iterations=done + 2, resume=True)
    assert model.training["iterations"] == done + 2


def test_the_same_seed_trains_the_same_weights(discs: Path, tmp_path: Path) -> None:
    runs = [mambaseg.train(discs, output=tmp_path / name, iterations=3, precision="float32") for name in "ab"]
    assert runs[0].checksum == runs[1].checksum


def test_training_needs_an_end(discs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--minutes M or --iterations N"):
        mambaseg.train(discs, output=tmp_path / "model")


# --- data sets --------------------------------------------------------------------------------------------------------

def test_a_fifth_is_held_out_as_nnunet_does(discs: Path) -> None:
    data = open_dataset(discs)
    assert len(data.train) == 4
    assert len(data.validation) == 2
    assert not {c.name for c in data.train} & {c.name for c in data.validation}


def test_split_json_decides(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", n=3)
    (data / "split.json").write_text(json.dumps({"train": ["case0"], "val": ["case2"]}))
    opened = open_dataset(data)
    assert [c.name for c in opened.train] == ["case0"]
    assert [c.name for c in opened.validation] == ["case2"]


def test_masks_of_255_are_one_class(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", n=2, instances=False)
    for path in (data / "labels").iterdir():
        tifffile.imwrite(path, (tifffile.imread(path) * 255).astype(np.uint8))
    opened = open_dataset(data)
    assert opened.classes == ("background", "class 255")
    _, _, labels, _ = next(opened.load(opened.train))
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda d: (d / "labels" / "case1.tif").unlink(), "case1"),
    (lambda d: (d / "images").rename(d / "pictures"), "no folder images/"),
    (lambda d: (d / "split.json").write_text('{"train": ["nobody"]}'), "nobody"),
    (lambda d: (d / "split.json").write_text("{"), "split.json"),
    (lambda d: tifffile.imwrite(d / "labels" / "case1.tif", np.zeros((9, 9), np.uint8)), "one grid"),
    (lambda d: tifffile.imwrite(d / "images" / "case1.tif", np.zeros((8, SIDE, SIDE), np.uint8),
                                metadata={"axes": "ZYX"}), "case1"),
])
def test_an_unusable_folder_is_told_in_one_sentence(tmp_path: Path, spoil: Any, said: str) -> None:
    data = write_dataset(tmp_path / "set", n=3)
    spoil(data)
    with pytest.raises(DatasetError, match=said) as caught:
        open_dataset(data)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        open_dataset(tmp_path / "nowhere")
