"""U-Net v2 (arXiv:2311.17791): PVT v2 under attention, SDI and a convolutional decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.layers import as_channels
from mambaseg.nets.pvt import PVT_SIZES, PVTv2
from mambaseg.nets.sdi import SDINetwork

__all__ = ["PRESETS", "UNetV2"]

# The paper's backbone is B2; "polyp" is its configuration with two outputs
PRESETS: dict[str, dict[str, Any]] = {
    **{f"unetv2-{size}": {"n_classes": 1, "backbone": size, "deep_supervision": True} for size in PVT_SIZES},
    "unetv2-polyp": {"n_classes": 1, "backbone": "b2", "deep_supervision": True, "n_outputs": 2},
}


class _Encoder(nn.Module):
    """The backbone under its official name."""

    def __init__(self, backbone: PVTv2) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.backbone(image)
        return levels


class UNetV2(SDINetwork):
    """U-Net v2, (batch, in_channels or 1, S, S) -> logits (batch, n_classes, S, S); S a multiple of 32.

    A one-channel image is repeated to `in_channels`.

    Parameters
    ----------
    n_classes : outputs
    in_channels : channels of the first patch embedding; 3 in every published checkpoint
    backbone : key of `PVT_SIZES`; published checkpoints are "b2"
    channel : width of the decoder
    drop_path : greatest rate of stochastic depth, that of the deepest block; acts in training only
    deep_supervision : return logits of `n_outputs` levels rather than of the full resolution alone
    n_outputs : levels with deep supervision, finest first: 4, or 2 in the authors' polyp variant
    fuse : without deep supervision, add the half-size logits, enlarged bilinearly, to the full-size ones: how the
        authors read the two outputs of their polyp variant
    """

    def __init__(self, n_classes: int = 1, in_channels: int = 3, backbone: str = "b2", channel: int = 32,
                 drop_path: float = 0.1, deep_supervision: bool = True, n_outputs: int = 4,
                 fuse: bool = False) -> None:
        super().__init__()
        if backbone not in PVT_SIZES:
            raise ValueError(f"backbone {backbone!r}: one of {', '.join(PVT_SIZES)}")
        if not 1 <= n_outputs <= 4:
            raise ValueError(f"n_outputs {n_outputs}: 1 to 4")
        size = PVT_SIZES[backbone]
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision
        self.n_outputs = n_outputs
        self.fuse = fuse
        self.encoder = _Encoder(PVTv2(size, in_channels, drop_path))
        self._add_decoder(size.widths, channel, n_classes)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (batch, n_classes, S, S); with deep supervision a list, each half the size of the one before."""
        self.size_rule.check(image.shape[2:])
        features = self.encoder(as_channels(image, self.in_channels))
        if self.deep_supervision:
            return self._decode(features, self.n_outputs)
        full, *coarser = self._decode(features, 1 + self.fuse)
        for logits in coarser:
            full = full + functional.interpolate(logits, full.shape[2:], mode="bilinear", align_corners=False)
        return full
