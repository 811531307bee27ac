"""What official state dicts look like, in a few bytes."""

import hashlib
from typing import Any

import torch

from mambaseg.nets import build


def summary(name: str, **config: Any) -> tuple[int, int, str]:
    """Parameters, keys, and the SHA-256 of all keys in order with their shapes, of a network without its weights."""
    with torch.device("meta"):
        network = build(name, **config)
    state = network.state_dict()
    listed = "\n".join(f"{key} {list(value.shape)}" for key, value in state.items())
    return sum(p.numel() for p in network.parameters()), len(state), hashlib.sha256(listed.encode()).hexdigest()
