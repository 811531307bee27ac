"""Two processes train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from discs import write_dataset
from mambaseg import load_model
from mambaseg._errors import UserError
from mambaseg.train import processes
from mambaseg.train.checkpoint import load_checkpoint

PROGRAM = str(Path(__file__).parents[2] / "every_iteration.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# In two processes: a loss that looks at the whole batch and leaves voxels out, and its gradient, against one process
WHOLE_BATCH = """
import torch
from mambaseg.train import family_losses, losses, processes
torch.manual_seed(0)
logits, target = torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4, 1, 6, 6))
target[1, :, :4] = -2
regions = losses.region_target(target, [[1, 2], [2]], -2)
def all_losses(at):
    yield lambda x: losses.dice_cross_entropy(x[at], target[at], True, -2)
    yield lambda x: losses.region_dice_cross_entropy(x[at][:, :2], regions[at], True, True)
    yield lambda x: family_losses.ce_dice(x[at], target[at, 0].clamp(min=0), 0.4, 0.6)
def values(at):
    for loss in all_losses(at):
        x = logits.clone().requires_grad_()
        found = loss(x)
        found.backward()
        yield found.detach(), x.grad
whole = list(values(slice(None)))
with processes.joined("cpu"):
    assert processes.count() == 2
    for (loss, gradient), (own, part) in zip(whole, values(slice(processes.rank(), None, 2))):
        torch.testing.assert_close(processes.total(own) / 2, loss)
        torch.testing.assert_close(processes.total(part) / 2, gradient)
"""


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", n=6, instances=False)
    options = ["--network", "nnunet", "--recipe", "nnunet", "--iterations", "3", "--batch", "4"]
    curves: dict[str, list[Any]] = {}
    weights = {}
    for name, starter in (("one", []), ("two", TORCHRUN)):
        done = start(*starter, PROGRAM, "train", str(data), "-o", str(tmp_path / name), *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The model is in") == 1  # the first process alone speaks
        state = load_checkpoint(tmp_path / f"{name}.training" / "last.pt")
        curves[name] = [(entry["loss"], entry["score"]) for entry in state.history]
        weights[name] = load_model(tmp_path / name).build().state_dict()
    assert len(curves["one"]) == 3
    for one, two in zip(curves["one"], curves["two"], strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    for key, value in weights["one"].items():
        torch.testing.assert_close(weights["two"][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_losses_over_the_whole_batch_are_those_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(WHOLE_BATCH)
    done = start(*TORCHRUN, str(tmp_path / "losses.py"))
    assert done.returncode == 0, done.stderr


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.check_batch(3)
    monkeypatch.setattr(processes, "count", lambda: 2)
    processes.check_batch(4)
    with pytest.raises(UserError, match=r"A batch of 3 cannot be shared by 2 processes in equal parts; start 3"):
        processes.check_batch(3)


def test_a_process_alone_joins_nothing() -> None:
    with processes.joined("cpu"), processes.first_before_others():
        assert (processes.count(), processes.rank(), processes.is_started_first()) == (1, 0, True)
    values = torch.arange(3.0)
    assert processes.sum_over_all(values) is values
    assert processes.total(values) is values
