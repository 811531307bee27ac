"""VM-UNetV2 (arXiv:2403.09157): the encoder of VM-UNet under attention, SDI and a convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mambaseg.nets.layers import as_channels
from mambaseg.nets.sdi import SDINetwork
from mambaseg.nets.vssm import VSSEncoder

__all__ = ["PRESETS", "VMUNetV2"]

# The depths that the paper compares; 2-2-9-2 is its best
PRESETS: dict[str, dict[str, Any]] = {
    f"vmunetv2-{''.join(map(str, depths))}": {"n_classes": 1, "depths": depths, "deep_supervision": True}
    for depths in ((2, 2, 2, 2), (2, 2, 9, 2), (2, 2, 27, 2))
}


class VMUNetV2(SDINetwork):
    """VM-UNetV2, (batch, in_channels or 1, S, S) -> (batch, n_classes, S, S); S a multiple of 32.

    A one-channel image is repeated to `in_channels`. The encoder's last stage never reached the official output: it is
    kept for its weights, and not computed.

    Parameters
    ----------
    n_classes : outputs
    in_channels : channels of the patch embedding; 3 in every published checkpoint
    depths : VSS blocks a stage, finest first; four stages
    mid_channel : c, width of the decoder; the encoder's is 2c, 4c, 8c, 16c
    d_state : states of the scan
    drop_path : greatest rate of stochastic depth, that of the deepest block; acts in training only
    deep_supervision : add the half-size logits, enlarged by a learned layer, to the full-size ones. Officially this is
        part of the function, in evaluation too, so there is still one output; for one class only
    activate : with one class, return probabilities (sigmoid) as the official network does; otherwise logits.
        Training and prediction here want logits: False
    """

    def __init__(self, n_classes: int = 1, in_channels: int = 3, depths: Sequence[int] = (2, 2, 9, 2),
                 mid_channel: int = 48, d_state: int = 16, drop_path: float = 0.2, deep_supervision: bool = True,
                 activate: bool = True) -> None:
        super().__init__()
        if len(depths) != 4:
            raise ValueError(f"depths {depths}: four stages")
        if deep_supervision and n_classes != 1:
            raise ValueError(f"deep_supervision of VM-UNetV2 is for one class, not {n_classes}; switch it off")
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision
        self.sigmoid = activate and n_classes == 1
        self._add_decoder([2 * mid_channel * 2**i for i in range(4)], mid_channel, n_classes)
        self.deconv6 = nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=1)
        self.vmunet = VSSEncoder(in_channels, depths, 2 * mid_channel, d_state, drop_path)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, or probabilities of a single class if `activate`."""
        self.size_rule.check(image.shape[2:])
        features = [x.permute(0, 3, 1, 2) for x in self.vmunet(as_channels(image, self.in_channels))]
        logits, *coarser = self._decode(features, 2 if self.deep_supervision else 1)
        if self.deep_supervision:
            logits = logits + self.deconv6(coarser[0])
        return logits.sigmoid() if self.sigmoid else logits
