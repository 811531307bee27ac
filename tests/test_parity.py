"""The parity tool: on the fixtures that travel with the tests, and on all of shared/ where it is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).with_name("parity.py")
BUNDLED = Path(__file__).parent / "data" / "parity"


def run_tool(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(folder), *names], capture_output=True, text=True, check=False)


def test_bundled_fixtures_reproduce() -> None:
    run = run_tool(BUNDLED)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(lines) == len(list(BUNDLED.glob("*.keys.json")))
    assert all(line.split()[-1] == "ok" for line in lines)


@pytest.mark.slow
def test_all_shared_fixtures_reproduce(shared: Path) -> None:
    run = run_tool(shared / "parity")
    assert run.returncode == 0, run.stdout + run.stderr
    told = {line.split()[0] for line in run.stdout.splitlines()}
    fixtures = {path.name.removesuffix(".keys.json") for path in (shared / "parity").glob("*.keys.json")}
    assert len(fixtures) > 60
    assert fixtures <= told


def test_a_wrong_output_fails(tmp_path: Path) -> None:
    name = "block_upsample_v2"
    for path in BUNDLED.glob(f"{name}.*"):
        shutil.copy(path, tmp_path)
    arrays = dict(np.load(tmp_path / f"{name}.npz"))
    arrays["out0"] = arrays["out0"] + np.float32(3e-5)  # three times the tolerance of an operator
    np.savez(tmp_path / f"{name}.npz", **arrays)
    run = run_tool(tmp_path)
    assert run.returncode == 1
    assert run.stdout.split()[-1] == "FAIL"


def test_an_unknown_network_is_said_and_counts(tmp_path: Path) -> None:
    record = {"family": "transformer", "args": {}, "inputs": [], "keys": [], "outputs": [], "n_params": 0}
    (tmp_path / "strange.keys.json").write_text(json.dumps(record))
    run = run_tool(tmp_path)
    assert run.returncode == 1
    assert run.stdout.split()[0] == "strange"
    assert run.stdout.split()[-1] == "unknown"


def test_an_empty_folder_fails(tmp_path: Path) -> None:
    assert run_tool(tmp_path).returncode == 1
