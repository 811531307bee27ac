"""What an adapter computes: a linear map of the network's logits, what it sees early on, and what lies around; blurred.

The early stages of an encoder know edges and textures of every kind of picture; the last layer only sees what helped
with the pictures of the training. Where a model finds classes, what it answers in the surroundings tells place: how far
a voxel is from a border, which looks do not tell. A classifier of single voxels answers in specks; the blur, by the
size of the objects, mends them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.umamba import UMamba

if TYPE_CHECKING:
    from mambaseg.models.model import Model

__all__ = ["Watch", "add_step", "blur", "mix", "surroundings", "tap_names", "tap_width", "texture"]

_SCALES = (1.0, 2.0, 4.0, 8.0)  # voxels, of the texture
_SURROUNDINGS = (4.0, 8.0)  # voxels; chosen by the study in docs/learning.md, as is that objects have none


def tap_names(network: nn.Module) -> tuple[str, ...]:
    """Modules whose features an adapter may use: a U-Mamba's first stages, in 3-D one alone to save memory."""
    if not isinstance(network, UMamba):
        return ()
    n_stages = 2 if len(network.strides[0]) == 2 else 1
    return tuple(f"encoder.stages.{index}" for index in range(min(n_stages, len(network.strides))))


def tap_width(network: nn.Module, model: Model) -> int:
    """Channels of all that `Watch.take` gives, together."""
    width = model.n_channels + 3 * len(_SCALES) + model.n_outputs * len(_reaches(model))
    for name in tap_names(network):
        modules = network.get_submodule(name).modules()
        width += [module.out_channels for module in modules if isinstance(module, nn.Conv2d | nn.Conv3d)][-1]
    return width


def _reaches(model: Model) -> tuple[float, ...]:
    """How far the surroundings reach that count, voxels."""
    return () if model.kind == "instances" else _SURROUNDINGS


class Watch:
    """Keeps what modules of a model's network gave in the last forward pass."""

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.names, self.reaches = tap_names(network), _reaches(model)
        self._seen: dict[str, Tensor] = {}
        for name in self.names:
            network.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            self._seen[name] = output

        return keep

    def take(self, x: Tensor, logits: Tensor) -> list[Tensor]:
        """All features at full resolution, each (batch, channel, *S).

        Parameters
        ----------
        x, logits : input and answer of the pass, (batch, channel, *S) and (batch, class, *S)

        Returns
        -------
        What each module gave, enlarged; x itself; its texture; the answer's surroundings
        """
        return [*(_enlarged(self._seen.pop(name), x) for name in self.names), x, texture(x),
                *surroundings(logits, self.reaches)]


def _enlarged(features: Tensor, x: Tensor) -> Tensor:
    if features.shape[2:] == x.shape[2:]:
        return features
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(features, size=x.shape[2:], mode=mode, align_corners=False)


def mix(features: Tensor, weights: Tensor, sigma: float) -> Tensor:
    """Logits after a step: a linear map of the former ones and of features, blurred; (batch, class, *S).

    Parameters
    ----------
    features : (batch, class + width, *S), the former logits first
    weights : (class, class + width + 1), bias last
    sigma : of the blur, voxels
    """
    weights = weights.to(features)
    mixed = torch.einsum("kc,bc...->bk...", weights[:, :-1], features)
    return blur(mixed + weights[:, -1].reshape(1, -1, *[1] * (features.ndim - 2)), sigma)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (batch, channel, *S), the edge's values repeated outside; x itself where sigma is 0."""
    if sigma <= 0:
        return x
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(2, x.ndim):
        lines = x.movedim(axis, -1)
        padded = functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        x = functional.conv1d(padded, kernel.view(1, 1, -1)).reshape(lines.shape).movedim(-1, axis)
    return x


def texture(x: Tensor) -> Tensor:
    """Brightness, slope and roughness of the mean channel at several scales, (batch, 3 x scale, *S)."""
    grey = x.mean(1, keepdim=True)
    axes = tuple(range(2, x.ndim))
    found = []
    for sigma in _SCALES:
        smooth = blur(grey, sigma)
        slopes = torch.stack(torch.gradient(smooth, dim=axes))
        found += [smooth, sigma * slopes.square().sum(0).sqrt(), blur((grey - smooth).square(), sigma).sqrt()]
    return torch.cat(found, 1)


def surroundings(logits: Tensor, reaches: Sequence[float] = _SURROUNDINGS) -> list[Tensor]:
    """Share of each class around a voxel, (batch, class, *S), for each reach."""
    if not reaches:
        return []
    shares = logits.softmax(1)
    return [blur(shares, sigma) for sigma in reaches]


def add_step(network: nn.Module, model: Model, step: Mapping[str, Tensor]) -> None:
    """Let a model's network give the logits that `mix` makes of its own.

    Parameters
    ----------
    step : "weights" and "sigma" as of `mix`; the features are those of `tap_names` and the input
    """
    watch = Watch(network, model)
    weights, sigma = step["weights"], float(step["sigma"])

    def change(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        first = output[0] if isinstance(output, list | tuple) else output
        mixed = mix(torch.cat([first, *watch.take(inputs[0], first)], 1), weights, sigma)
        return [mixed, *output[1:]] if isinstance(output, list | tuple) else mixed

    network.register_forward_hook(change)
