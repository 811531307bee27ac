"""Training: sampling, augmentation, losses, the loop, and the way from a folder to a model package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambaseg.train.run import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Load the training on first use: it brings torch."""
    if name == "train":
        from mambaseg.train.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
