"""The state of a training on a disk that is full, and on one that was cut short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambaseg._errors import ModelError
from mambaseg.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

# A limit on the size of files stands for a full disk: writing fails at the same place, with the same kind of error
ON_A_FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from mambaseg._errors import UserError
from mambaseg.train.checkpoint import Checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
try:
    save_checkpoint(Path(sys.argv[1]), Checkpoint({"a": torch.zeros(2**20)}, {}))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a process's files")
def test_a_full_disk_ends_in_a_sentence_and_keeps_the_former_state(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint({"a": torch.ones(3)}, {}, iteration=7))
    done = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, str(path)], capture_output=True, text=True,
                          timeout=120, check=False)
    assert "last.pt cannot be written" in done.stdout, done.stderr
    assert load_checkpoint(path).iteration == 7
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint({"a": torch.ones(30)}, {}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="start again without --resume"):
        load_checkpoint(path)
