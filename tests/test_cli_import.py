"""`mambaseg import` as a user meets it: child processes, good and hostile files."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.io import imsave

import official

COMMAND = [sys.executable, "-m", "mambaseg"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    found = official.fixture("umamba_enc_2d_v2_tiny_chan")
    assert found is not None
    torch.save(official.nnunet_file(found[0], official.state(found[0])), tmp_path / "checkpoint_final.pth")
    return tmp_path / "checkpoint_final.pth"


def test_an_imported_checkpoint_segments(checkpoint: Path, tmp_path: Path) -> None:
    done = run("import", checkpoint, "-o", tmp_path / "model", "--name", "organs",
               "--classes", "background,liver,heart")
    assert done.returncode == 0, done.stderr
    assert "U-Mamba (Enc)" in done.stdout
    assert f"mambaseg segment IMAGE -m {tmp_path / 'model'}" in done.stdout
    values = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (values["name"], values["classes"]) == ("organs", ["background", "liver", "heart"])
    assert run("models", "check", tmp_path / "model").returncode == 0
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    imsave(tmp_path / "a.png", picture, check_contrast=False)
    done = run("segment", tmp_path / "a.png", "-m", tmp_path / "model", "--json")
    assert done.returncode == 0, done.stderr
    assert "liver" in done.stdout


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(("protocol", "reason"), [(None, "system"), (2, "system"), (5, "no file of weights")])
def test_a_hostile_file_is_one_line_and_runs_nothing(tmp_path: Path, protocol: int | None, reason: str) -> None:
    content = Touch(tmp_path / "trace")
    if protocol is None:
        torch.save(content, tmp_path / "evil.pth")
    else:
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content, protocol))
    done = run("import", tmp_path / "evil.pth", "-o", tmp_path / "model")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "evil.pth" in done.stderr
    assert reason in done.stderr
    assert "run" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize(("option", "value"), [("--patch", "48,x"), ("--patch", "0,40"), ("--strides", "1x1,,2x2"),
                                               ("--strides", "-2"), ("--patch", "")])
def test_an_option_that_is_no_size_says_what_is_expected(checkpoint: Path, tmp_path: Path, option: str,
                                                         value: str) -> None:
    done = run("import", checkpoint, "-o", tmp_path / "model", f"{option}={value}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"such as {option}" in done.stderr
    assert not (tmp_path / "model").exists()


def test_strides_and_patch_are_read(tmp_path: Path) -> None:
    found = official.fixture("umamba_enc_2d_v2_tiny_chan")
    assert found is not None
    torch.save(official.state(found[0]), tmp_path / "bare.pth")
    done = run("import", tmp_path / "bare.pth", "-o", tmp_path / "model")
    assert done.returncode == 2
    assert "--strides" in done.stderr
    done = run("import", tmp_path / "bare.pth", "-o", tmp_path / "model", "--patch", "48,40", "--strides",
               "1x1,2x2,2x2,2x2", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    plan = json.loads((tmp_path / "model" / "model.json").read_text())["plan"]
    assert plan["strides"] == [[1, 1], [2, 2], [2, 2], [2, 2]]
