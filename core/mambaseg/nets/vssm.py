"""Visual state space layers of VMamba (arXiv:2401.10166), shared by VM-UNet and VM-UNetV2.

Feature maps are channels-last here, (batch, H, W, C). Letters as in `mambaseg.nets.layers`: C model width, E = 2C
inner width, N state size, R rank of delta, L = H * W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.layers import DropPath, delta_bias_init, drop_rates, init_transformer
from mambaseg.ops import cross_selective_scan
from mambaseg.ops.cross_scan import N_DIRECTIONS

__all__ = ["SS2D", "PatchEmbed", "PatchExpand", "PatchMerging", "VSSBlock", "VSSEncoder"]


class PatchEmbed(nn.Module):
    """Image to tokens: each 4 x 4 patch becomes one; what is left over at the right and the bottom is dropped."""

    def __init__(self, in_channels: int, width: int, patch_size: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channel, H, W) -> (batch, H // 4, W // 4, width)."""
        tokens: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Half the resolution, twice the width: four neighbours joined into one token.

    An odd last row or column is dropped.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W, C) -> (batch, H // 2, W // 2, 2C)."""
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        phases = [x[:, row:height:2, column:width:2] for column in (0, 1) for row in (0, 1)]  # rows move first
        merged: Tensor = self.reduction(self.norm(torch.cat(phases, dim=-1)))
        return merged


class PatchExpand(nn.Module):
    """`scale` times the resolution, width divided by `scale`: the channels of a token spread over its block."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(width, scale * width, bias=False)
        self.norm = nn.LayerNorm(width // scale)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W, C) -> (batch, scale * H, scale * W, C // scale)."""
        x = self.expand(x).unflatten(-1, (self.scale, self.scale, -1))  # (batch, H, W, row, column, C // scale)
        expanded: Tensor = self.norm(x.transpose(2, 3).flatten(3, 4).flatten(1, 2))
        return expanded


class SS2D(nn.Module):
    """Selective scan of a map in four directions, (batch, H, W, C) -> same shape.

    Parameters
    ----------
    width : C
    d_state : N
    """

    def __init__(self, width: int, d_state: int = 16) -> None:
        super().__init__()
        inner, k = 2 * width, N_DIRECTIONS
        self.rank = math.ceil(width / 16)
        self.d_state = d_state
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(delta_bias_init(k * inner).view(k, inner))
        # S4D-real start: A = -(1..N) on every row
        self.A_logs = nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(k * inner, 1))
        self.Ds = nn.Parameter(torch.ones(k * inner))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)  # four of torch's default Linear layers
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W, C) in, the same shape out."""
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (batch, H, W, E) each, x first
        x = functional.silu(self.conv2d(x.permute(0, 3, 1, 2)))  # z goes past the convolution
        y = self._scan(x).permute(0, 2, 3, 1)
        mixed: Tensor = self.out_proj(self.out_norm(y) * functional.silu(z))
        return mixed

    def _scan(self, x: Tensor) -> Tensor:
        """(batch, E, H, W) -> (batch, E, H, W), the sum over directions.

        At least single precision, outside autocast: the scan's state does not fit half precision.
        """
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            per_direction = (N_DIRECTIONS, -1)
            return cross_selective_scan(
                wide, self.x_proj_weight, self.dt_projs_weight, -torch.exp(self.A_logs).unflatten(0, per_direction),
                self.Ds.view(per_direction), self.dt_projs_bias)


class VSSBlock(nn.Module):
    """Residual block of LayerNorm and SS2D; there is no feed-forward part.

    Parameters
    ----------
    width : C
    d_state : N
    drop_path : rate of `DropPath`
    """

    def __init__(self, width: int, d_state: int = 16, drop_path: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = SS2D(width, d_state)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W, C) in, the same shape out."""
        mixed: Tensor = x + self.drop_path(self.self_attention(self.ln_1(x)))
        return mixed


def vss_blocks(width: int, d_state: int, rates: Sequence[float]) -> nn.Sequential:
    """One block for each drop path rate."""
    return nn.Sequential(*(VSSBlock(width, d_state, rate) for rate in rates))


class _Down(nn.Module):
    """Blocks of one resolution, then patch merging except at the bottom."""

    def __init__(self, width: int, d_state: int, rates: Sequence[float], is_last: bool) -> None:
        super().__init__()
        self.blocks = vss_blocks(width, d_state, rates)
        self.downsample = nn.Identity() if is_last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.downsample(self.blocks(x))
        return features


class VSSEncoder(nn.Module):
    """Patch embedding and stages of VSS blocks, each half as fine and twice as wide as the one before.

    Parameters
    ----------
    in_channels : channels of the image
    depths : blocks a stage
    width : C of the first stage
    d_state : N
    drop_path : greatest rate, that of the last block
    """

    def __init__(self, in_channels: int, depths: Sequence[int], width: int, d_state: int, drop_path: float) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, width)
        self.layers = nn.ModuleList(
            _Down(width * 2**i, d_state, rates, is_last=i == len(depths) - 1)
            for i, rates in enumerate(drop_rates(drop_path, depths)))
        self.apply(init_transformer)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Inputs of the stages, (batch, H / 4 / 2^i, W / 4 / 2^i, width * 2^i); the last stage itself is not run."""
        inputs = [self.patch_embed(image)]
        for layer in self.layers[:-1]:
            inputs.append(layer(inputs[-1]))
        return inputs
