"""Layers that several networks share: the Mamba layer, convolutions for either dimension, drop path.

Letters follow the Mamba paper (arXiv:2312.00752): C model width, E = 2C inner width, N state size, R rank of delta,
K length of the causal convolution, L number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.ops import selective_scan

__all__ = ["DropPath", "Mamba", "MambaLayer", "as_channels", "convolution", "delta_bias_init", "drop_rates",
           "init_transformer", "instance_norm", "scan_tokens", "transposed_convolution"]

# Not by their own types: those ask for two or three sizes each, here their number follows from the argument
_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def convolution(c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int] | None = None,
                bias: bool = True) -> nn.Module:
    """2-D or 3-D convolution (as long as `kernel`) that keeps the size at stride 1; odd kernels."""
    padding = tuple(k // 2 for k in kernel)
    strides = tuple(stride) if stride is not None else (1,) * len(kernel)
    return _CONVOLUTION[len(kernel)](c_in, c_out, tuple(kernel), strides, padding, bias=bias)


def transposed_convolution(c_in: int, c_out: int, stride: Sequence[int]) -> nn.Module:
    """Transposed convolution whose kernel equals its stride: each voxel becomes a block of its own."""
    return _TRANSPOSED[len(stride)](c_in, c_out, tuple(stride), tuple(stride))


def instance_norm(channels: int, ndim: int) -> nn.Module:
    """Affine instance normalisation, eps 1e-5; instance statistics in training and evaluation alike."""
    return _NORM[ndim](channels, eps=1e-5, affine=True)


def delta_bias_init(size: int) -> Tensor:
    """Bias whose softplus is log-uniform in 1e-3..1e-1 (floored at 1e-4), (size,); Mamba's step-size initialisation."""
    delta = torch.exp(torch.rand(size) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
    return delta + torch.log(-torch.expm1(-delta))  # inverse softplus


class Mamba(nn.Module):
    """One selective state space layer, (batch, L, C) -> (batch, L, C).

    One direction only, raster order, no residual and no norm inside (arXiv:2312.00752, algorithm 2 and figure 3).

    Parameters
    ----------
    d_model : C
    d_state : N
    d_conv : K, taps of the causal depthwise convolution; L may be shorter
    expand : E / C
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner = expand * d_model
        self.rank = math.ceil(d_model / 16)
        self.d_state = d_state
        # S4D-real start: A = -(1..N) on every row
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta_bias_init(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, L, C) in, tokens of the same shape out."""
        length = tokens.shape[1]
        x, z = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)  # (batch, E, L) each, x first
        x = functional.silu(self.conv1d(x)[..., :length])  # left padding only: the last tap sees the current token
        projected = self.x_proj(x.transpose(1, 2))  # (batch, L, R + 2N)
        low_rank, B, C = projected.split([self.rank, self.d_state, self.d_state], dim=-1)
        delta = (low_rank @ self.dt_proj.weight.t()).transpose(1, 2)  # (batch, E, L); its bias goes into the scan
        y = selective_scan(x, delta, -torch.exp(self.A_log),
                           B.transpose(1, 2), C.transpose(1, 2), self.D, z, self.dt_proj.bias, delta_softplus=True)
        mixed: Tensor = self.out_proj(y.transpose(1, 2))
        return mixed


class MambaLayer(nn.Module):
    """U-Mamba's block: a feature map as tokens through LayerNorm and Mamba, (batch, C, *S) -> same shape.

    The result replaces the features: there is no residual connection. Runs in at least single precision, outside
    autocast, because the scan's state does not fit half precision.

    Parameters
    ----------
    width : length of a token: C for patch tokens, the number of voxels for channel tokens
    channel_tokens : each channel is a token (U-Mamba Enc on small maps) rather than each voxel
    """

    def __init__(self, width: int, channel_tokens: bool = False) -> None:
        super().__init__()
        self.channel_tokens = channel_tokens
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, C, *S) in, the same shape and dtype out."""
        return scan_tokens(features, self.norm, self.mamba, self.channel_tokens)


def scan_tokens(features: Tensor, norm: nn.Module, mamba: nn.Module, channel_tokens: bool = False) -> Tensor:
    """A feature map (batch, C, *S) as tokens through `norm` and `mamba`; see `MambaLayer`."""
    with torch.autocast(features.device.type, enabled=False):
        wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        tokens = wide.flatten(2)  # (batch, C, voxels): channel tokens
        if not channel_tokens:
            tokens = tokens.transpose(1, 2)  # (batch, voxels, C): patch tokens, row-major
        tokens = mamba(norm(tokens))
        if not channel_tokens:
            tokens = tokens.transpose(1, 2)
    result: Tensor = tokens.reshape(features.shape).to(features.dtype)
    return result


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training a residual branch is left out for whole samples at random.

    Kept samples are scaled up so that the mean stays; in evaluation nothing happens.

    Parameters
    ----------
    rate : probability that a sample loses the branch, 0 <= rate < 1
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(batch, ...) in, the same shape out."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        kept = torch.empty(branch.shape[0], *(1,) * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
        return branch * (kept.bernoulli_(keep) / keep)

    def extra_repr(self) -> str:
        """The rate, as torch prints modules."""
        return f"rate={self.rate:.3g}"


def drop_rates(greatest: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop path rates of the blocks of every stage, growing evenly from 0 to `greatest` over all blocks."""
    rates = iter(torch.linspace(0, greatest, sum(depths), dtype=torch.float64, device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def init_transformer(module: nn.Module) -> None:
    """Initialise one Linear as transformers do (normal, deviation 0.02, bias 0); other modules stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)  # cut at +-2, not at +-2 deviations, as in the official code
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def as_channels(image: Tensor, n_channels: int) -> Tensor:
    """A one-channel image repeated to `n_channels`, (batch, n_channels, H, W); any other image as it is."""
    return image.expand(-1, n_channels, -1, -1) if image.shape[1] == 1 else image
