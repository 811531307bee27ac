"""Other light: random changes of brightness, contrast and colour for photographs, in units of the picture's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from torch import Tensor

__all__ = ["OtherLight"]

_SHIFT = 0.3  # of the brightness, in standard deviations of the picture
_GAIN = (0.6, 1.5)  # of the contrast
_SATURATION = (0.4, 1.6)  # 0 would be grey
_TINT = 0.12  # of each channel's gain, and of what channels give to one another


class OtherLight(ImageOnlyTransform):  # type: ignore[misc]  # batchgeneratorsv2 has no types
    """Brightness, contrast, saturation and tint of a colour picture (3, *S), however it was normalised."""

    def get_parameters(self, **data: Any) -> dict[str, Any]:
        """Draw a matrix that mixes the channels, and a shift; its rows sum to the gain, but for the tint."""
        random = np.random.default_rng(int(torch.randint(2**62, ())))  # follows the seed of the other transforms
        grey = np.full((3, 3), 1 / 3)
        saturation = random.uniform(*_SATURATION)
        mix = saturation * np.eye(3) + (1 - saturation) * grey + random.uniform(-_TINT, _TINT, (3, 3)) / 2
        return {"mix": random.uniform(*_GAIN) * mix, "shift": random.uniform(-_SHIFT, _SHIFT)}

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        axes = tuple(range(1, img.ndim))
        mean, spread = img.mean(axes, keepdim=True), img.std().clamp(min=1e-6)
        mix = torch.from_numpy(params["mix"]).to(img.dtype)
        ground = torch.einsum("ij,j...->i...", mix / mix.sum(1).mean(), mean)  # brightness changes by the shift alone
        shifted: Tensor = torch.einsum("ij,j...->i...", mix, img - mean) + ground + params["shift"] * spread
        return shifted
