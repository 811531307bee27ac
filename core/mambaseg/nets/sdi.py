"""What VM-UNetV2 (arXiv:2403.09157) and U-Net v2 (arXiv:2311.17791) share: attention, SDI and the decoder.

SDI ("semantics and detail infusion") brings all levels of the encoder to the size of one of them and multiplies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.sizes import SizeRule

__all__ = ["SDI", "ChannelAttention", "SDINetwork", "SpatialAttention"]

_LEVELS = (1, 2, 3, 4)


class ChannelAttention(nn.Module):
    """Weight of each channel from its mean and its maximum (CBAM, arXiv:1807.06521)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, H, W) -> weights in 0..1, (batch, C, 1, 1)."""
        pooled = (functional.adaptive_avg_pool2d(x, 1), functional.adaptive_max_pool2d(x, 1))
        mean, greatest = (self.fc2(functional.relu(self.fc1(value))) for value in pooled)
        return torch.sigmoid(mean + greatest)


class SpatialAttention(nn.Module):
    """Weight of each pixel from the mean and the maximum over its channels (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, H, W) -> weights in 0..1, (batch, 1, H, W)."""
        # max, not amax: where channels tie, the official gradient goes to one of them
        summary = torch.cat((x.mean(1, keepdim=True), x.max(1, keepdim=True).values), dim=1)
        return torch.sigmoid(self.conv1(summary))


class _ConvNorm(nn.Module):
    """1x1 convolution and batch norm; the official class declares a ReLU and does not apply it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(x))
        return normed


class SDI(nn.Module):
    """Product of all levels, each brought to the size of the anchor and convolved; square maps only.

    Parameters
    ----------
    channels : of every level
    n_levels : how many levels there are
    """

    def __init__(self, channels: int, n_levels: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(n_levels))

    def forward(self, levels: Sequence[Tensor], anchor: int) -> Tensor:
        """Levels (batch, C, S_i, S_i) -> (batch, C, S, S), with S the size of level `anchor`."""
        side = levels[anchor].shape[-1]
        factors = [conv(_resize(level, side)) for conv, level in zip(self.convs, levels, strict=True)]
        product: Tensor = reduce(torch.mul, factors)
        return product


def _resize(level: Tensor, side: int) -> Tensor:
    """A square map at another size: averaged down, or interpolated up with its corner pixels on the corners."""
    if level.shape[-1] > side:
        return functional.adaptive_avg_pool2d(level, (side, side))
    if level.shape[-1] < side:
        return functional.interpolate(level, size=(side, side), mode="bilinear", align_corners=True)
    return level


class SDINetwork(nn.Module):
    """Attention, SDI and decoder over four levels of an encoder, under the official names; a base class.

    Inputs must be square, because SDI is, and multiples of 32.
    """

    size_rule = SizeRule(32, square=True)

    def _add_decoder(self, widths: Sequence[int], channels: int, n_classes: int) -> None:
        """Register the layers in the official order.

        Parameters
        ----------
        widths : channels of the encoder's levels, finest first
        channels : width of every level after its translation
        n_classes : outputs
        """
        for i, width in zip(_LEVELS, widths, strict=True):
            self.add_module(f"ca_{i}", ChannelAttention(width))
            self.add_module(f"sa_{i}", SpatialAttention())
        for i, width in zip(_LEVELS, widths, strict=True):
            self.add_module(f"Translayer_{i}", _ConvNorm(width, channels))
        for i in _LEVELS:
            self.add_module(f"sdi_{i}", SDI(channels))
        self.seg_outs = nn.ModuleList(nn.Conv2d(channels, n_classes, 1) for _ in _LEVELS)
        for i in (2, 3, 4, 5):  # the fifth is never used, but checkpoints hold it
            self.add_module(f"deconv{i}", nn.ConvTranspose2d(channels, channels, 4, 2, 1, bias=False))

    def _decode(self, features: Sequence[Tensor], n_outputs: int) -> list[Tensor]:
        """Logits of the `n_outputs` finest of the four levels.

        Parameters
        ----------
        features : (batch, width, S, S) with S = side / 4, / 8, / 16 and / 32
        n_outputs : 1 to 4

        Returns
        -------
        (batch, class, side, side), then half the side, a quarter, an eighth
        """
        levels = [self._translate(i, x) for i, x in zip(_LEVELS, features, strict=True)]
        y = self.get_submodule("sdi_4")(levels, 3)
        outputs = [y]
        for i in (3, 2, 1):
            y = self.get_submodule(f"deconv{5 - i}")(y) + self.get_submodule(f"sdi_{i}")(levels, i - 1)
            outputs.append(y)
        heads = list(zip(self.seg_outs, outputs, strict=True))[: -n_outputs - 1 : -1]
        return [functional.interpolate(head(y), scale_factor=4, mode="bilinear", align_corners=False)
                for head, y in heads]

    def _translate(self, i: int, features: Tensor) -> Tensor:
        """Attention over channels, then over pixels, then the common width; level `i` from 1."""
        features = self.get_submodule(f"ca_{i}")(features) * features
        features = self.get_submodule(f"sa_{i}")(features) * features
        translated: Tensor = self.get_submodule(f"Translayer_{i}")(features)
        return translated
