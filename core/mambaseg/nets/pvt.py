"""PVT v2 (arXiv:2106.13797), the pyramid vision transformer that encodes for U-Net v2, in its sizes B0 to B5.

Tokens are (batch, H * W, C), row-major. Modules carry the official state-dict names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.layers import DropPath, drop_rates, init_transformer

__all__ = ["PVT_SIZES", "PVTBlock", "PVTSize", "PVTv2", "PatchEmbedding"]

_BLOCK_EPS = 1e-6  # of the blocks' and stages' norms; those of the embeddings and reductions have torch's 1e-5


@dataclass(frozen=True)
class PVTSize:
    """Sizes of a PVT v2, one entry for each of the four stages.

    Parameters
    ----------
    widths : channels
    depths : blocks
    mlp_ratios : hidden over outer width of the feed-forward parts
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)


_WIDTHS = (64, 128, 320, 512)
# Table 1 of the paper; heads and spatial reductions are the same in all
PVT_SIZES = {
    "b0": PVTSize((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": PVTSize(_WIDTHS, (2, 2, 2, 2)),
    "b2": PVTSize(_WIDTHS, (3, 4, 6, 3)),
    "b3": PVTSize(_WIDTHS, (3, 4, 18, 3)),
    "b4": PVTSize(_WIDTHS, (3, 8, 27, 3)),
    "b5": PVTSize(_WIDTHS, (3, 6, 40, 3), (4, 4, 4, 4)),
}
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)


class PatchEmbedding(nn.Module):
    """Map to tokens by a convolution whose patches overlap."""

    def __init__(self, c_in: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(batch, c_in, H, W) -> tokens (batch, H' * W', width), and (H', W')."""
        features = self.proj(features)
        return self.norm(_tokens(features)), (features.shape[2], features.shape[3])


def _tokens(features: Tensor) -> Tensor:
    """(batch, C, H, W) -> (batch, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(batch, H * W, C) -> (batch, C, H, W)."""
    features: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return features


class _Attention(nn.Module):
    """Attention of all tokens to a map that is `reduction` times coarser."""

    def __init__(self, width: int, n_heads: int, reduction: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.reduction = reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        queries = self._split(self.q(tokens))
        source = self.norm(_tokens(self.sr(_map(tokens, size)))) if self.reduction > 1 else tokens
        keys, values = (self._split(part) for part in self.kv(source).chunk(2, dim=-1))  # keys of all heads first
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """(batch, L, C) -> (batch, head, L, C / heads)."""
        heads: Tensor = x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
        return heads


class _DepthwiseConv(nn.Module):
    """3x3 depthwise convolution on the map behind the tokens, under its official name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return _tokens(self.dwconv(_map(tokens, size)))


class _FeedForward(nn.Module):
    """Two linear layers with a depthwise convolution between, which also tells tokens where they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.dwconv(self.fc1(tokens), size)))
        return projected


class PVTBlock(nn.Module):
    """Attention and feed-forward part, each normalised before and added to its input.

    Parameters
    ----------
    width : C, a multiple of `n_heads`
    n_heads : attention heads
    mlp_ratio : hidden over outer width of the feed-forward part
    reduction : how much coarser keys and values are; sizes that do not divide are floored
    drop_path : rate of `DropPath`
    """

    def __init__(self, width: int, n_heads: int, mlp_ratio: int, reduction: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_BLOCK_EPS)
        self.attn = _Attention(width, n_heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=_BLOCK_EPS)
        self.mlp = _FeedForward(width, mlp_ratio * width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (batch, H * W, C) of a map of `size` (H, W) in, the same shape out."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        mixed: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens), size))
        return mixed


class PVTv2(nn.Module):
    """Four stages of a pyramid, (batch, in_channels, H, W) -> maps at 1/4, 1/8, 1/16 and 1/32 of the size.

    Parameters
    ----------
    size : a value of `PVT_SIZES`
    in_channels : channels of the image
    drop_path : greatest rate, that of the last block
    """

    def __init__(self, size: PVTSize, in_channels: int = 3, drop_path: float = 0.1) -> None:
        super().__init__()
        widths = (in_channels, *size.widths)
        for i in range(4):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            self.add_module(f"patch_embed{i + 1}", PatchEmbedding(widths[i], widths[i + 1], kernel, stride))
        for i, rates in enumerate(drop_rates(drop_path, size.depths)):
            self.add_module(f"block{i + 1}", nn.ModuleList(
                PVTBlock(widths[i + 1], _HEADS[i], size.mlp_ratios[i], _REDUCTIONS[i], rate) for rate in rates))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(widths[i + 1], eps=_BLOCK_EPS))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (batch, width, H / 4 / 2^i, W / 4 / 2^i), finest first; sizes that do not divide round up."""
        features, outputs = image, []
        for i in range(1, 5):
            tokens, size = self.get_submodule(f"patch_embed{i}")(features)
            for block in self.get_submodule(f"block{i}").children():
                tokens = block(tokens, size)
            features = _map(self.get_submodule(f"norm{i}")(tokens), size)
            outputs.append(features)
        return outputs


def _initialise(module: nn.Module) -> None:
    """He initialisation by outputs for convolutions, the transformers' for linear layers."""
    init_transformer(module)
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
