"""VM-UNet (arXiv:2402.02491): a U-Net whose encoder and decoder are VSS blocks.

Modules carry the official state-dict names. Feature maps inside are channels-last, (batch, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mambaseg.nets.layers import as_channels, drop_rates, init_transformer
from mambaseg.nets.sizes import SizeRule
from mambaseg.nets.vssm import PatchExpand, VSSEncoder, vss_blocks

__all__ = ["PRESETS", "VMUNet"]

# The paper's skin lesion and abdomen (Synapse) configurations, and what the official class does when told nothing
PRESETS: dict[str, dict[str, Any]] = {
    "vmunet-isic": {"n_classes": 1, "depths": (2, 2, 2, 2), "depths_decoder": (2, 2, 2, 1)},
    "vmunet-synapse": {"n_classes": 9, "depths": (2, 2, 2, 2), "depths_decoder": (2, 2, 2, 1)},
    "vmunet-small": {"n_classes": 1, "depths": (2, 2, 9, 2), "depths_decoder": (2, 9, 2, 2)},
}


class _Up(nn.Module):
    """Patch expansion except at the bottom, then the blocks of one resolution."""

    def __init__(self, width: int, d_state: int, rates: Sequence[float], is_first: bool) -> None:
        super().__init__()
        self.blocks = vss_blocks(width, d_state, rates)  # before `upsample` in the official order of keys
        self.upsample = nn.Identity() if is_first else PatchExpand(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.upsample(x))
        return features


class _VSSM(VSSEncoder):
    """Encoder, decoder and head: what the official state dict lists under `vmunet.`."""

    def __init__(self, n_classes: int, in_channels: int, depths: Sequence[int], depths_decoder: Sequence[int],
                 width: int, d_state: int, drop_path: float) -> None:
        super().__init__(in_channels, depths, width, d_state, drop_path)
        last = len(depths) - 1
        # The decoder's rates run the other way in depth too: the greatest at the bottom, 0 at its last block
        rates = [stage[::-1] for stage in drop_rates(drop_path, depths_decoder[::-1])[::-1]]
        self.layers_up = nn.ModuleList(_Up(width * 2 ** (last - j), d_state, rates[j], is_first=j == 0)
                                       for j in range(len(depths_decoder)))
        self.final_up = PatchExpand(width, 4)
        self.final_conv = nn.Conv2d(width // 4, n_classes, 1)
        self.layers_up.apply(init_transformer)
        self.final_up.apply(init_transformer)

    def logits(self, image: Tensor) -> Tensor:
        """(batch, channel, H, W) -> (batch, class, H, W)."""
        skips = self(image)
        x = self.layers_up[0](self.layers[-1](skips[-1]))
        for layer, skip in zip(self.layers_up[1:], skips[:0:-1], strict=True):  # the finest skip is never used
            x = layer(x + skip)
        logits: Tensor = self.final_conv(self.final_up(x).permute(0, 3, 1, 2))
        return logits


class VMUNet(nn.Module):
    """VM-UNet, (batch, in_channels or 1, H, W) -> (batch, n_classes, H, W); H and W multiples of 32.

    A one-channel image is repeated to `in_channels`. There is no deep supervision.

    Parameters
    ----------
    n_classes : outputs
    in_channels : channels of the patch embedding; 3 in every published checkpoint
    depths : VSS blocks a stage, finest first
    depths_decoder : VSS blocks a stage, deepest first; as many stages
    width : C of the finest stage, a multiple of 4
    d_state : N
    drop_path : greatest rate of stochastic depth, in the blocks at the bottom; acts in training only
    activate : with one class, return probabilities (sigmoid) as the official network does; otherwise logits.
        Training and prediction here want logits: False
    """

    def __init__(self, n_classes: int = 1, in_channels: int = 3, depths: Sequence[int] = (2, 2, 9, 2),
                 depths_decoder: Sequence[int] = (2, 9, 2, 2), width: int = 96, d_state: int = 16,
                 drop_path: float = 0.2, activate: bool = True) -> None:
        super().__init__()
        if len(depths) != len(depths_decoder):
            raise ValueError(f"depths {depths} and depths_decoder {depths_decoder}: as many stages in both")
        self.in_channels = in_channels
        self.sigmoid = activate and n_classes == 1
        self.vmunet = _VSSM(n_classes, in_channels, depths, depths_decoder, width, d_state, drop_path)
        self.size_rule = SizeRule(4 * 2 ** (len(depths) - 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits, or probabilities of a single class if `activate`."""
        self.size_rule.check(image.shape[2:])
        logits = self.vmunet.logits(as_channels(image, self.in_channels))
        return logits.sigmoid() if self.sigmoid else logits
