"""The state of a training run on disk, so that it can go on after any interruption."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mambaseg._errors import ModelError
from mambaseg.io.atomic import atomic_path

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]


@dataclass
class Checkpoint:
    """Everything that training needs to go on.

    Parameters
    ----------
    weights, optimizer : state dicts
    iteration : finished iterations
    elapsed_s : seconds spent training, over all sessions
    best_score : highest validation Dice so far
    history : a dictionary per validation: iteration, elapsed_s, loss, score, rate
    average : running mean of the weights; empty: none is kept
    """

    weights: dict[str, Any]
    optimizer: dict[str, Any]
    iteration: int = 0
    elapsed_s: float = 0.0
    best_score: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)
    average: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` whole or not at all.

    Raises
    ------
    UserError : no room, no permission
    """
    # a shallow dictionary: asdict would copy every tensor
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    content = io.BytesIO()  # torch's own writer ends with an error of its own, or the process, where the disk is full
    torch.save(values, content)
    with atomic_path(path, content.getbuffer().nbytes) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that `save_checkpoint` wrote.

    Raises
    ------
    ModelError : the file is broken or holds something else
    """
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} is not a training checkpoint that can be resumed ({error}); "
                         "start again without --resume.") from None
