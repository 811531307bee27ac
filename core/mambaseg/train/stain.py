"""A second stain, painted into pictures of stained tissue while training.

Labelled tissue pictures are mostly H&E. In immunohistochemistry a brown (DAB) or red (AEC) marker stains cytoplasm or
membranes, often darker than the nuclei, and a network that has only seen H&E takes it for nuclei. Here the marker is
added around the known nuclei, with random texture, strength and colour, so that dark alone no longer means nucleus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

__all__ = ["MarkerStain"]

# Absorption of red, green and blue light by the marker, strongest channel 1 (after the optical densities that
# Ruifrok and Johnston measured for DAB, Anal Quant Cytol Histol 23:291, 2001; AEC by eye)
_MARKERS = ((0.35, 0.7, 1.0), (0.35, 0.7, 1.0), (0.15, 1.0, 0.8))


class MarkerStain(BasicTransform):  # type: ignore[misc]  # batchgeneratorsv2 has no types
    """Adds a marker around the objects of a colour picture with a bright ground; other pictures pass unchanged.

    Works on normalised channels (mean 0, deviation 1) and normalises again, as the stained picture would have been.
    ``segmentation`` holds instance numbers, 0 for background.
    """

    def get_parameters(self, **data: Any) -> dict[str, Any]:
        """Draw where the marker lies and how strong it is; None where the picture is not one of stained tissue."""
        image, labels = data["image"], data["segmentation"][0]
        inside = labels > 0
        if image.ndim != 3 or len(image) != 3 or not _is_absorbing(image, inside):
            return {"marker": None}
        random = np.random.default_rng(int(torch.randint(2**62, ())))  # follows the seed of the other transforms
        shape = tuple(image.shape[1:])
        region = _noise(random, shape, random.uniform(12, 60)) > random.uniform(-1.0, 0.7)
        soft_region = gaussian_filter(region.astype(np.float32), random.uniform(0.5, 4))
        fibres = 1 + random.uniform(0.1, 0.6) * _noise(random, shape, *random.uniform(0.7, 5, 2))
        spared = gaussian_filter(inside.numpy().astype(np.float32), 0.7)  # how much of a nucleus the marker leaves out
        amount = soft_region * np.clip(fibres, 0, None) * (1 - random.uniform(0.5, 1.0) * spared)
        colour = np.array(_MARKERS[random.integers(len(_MARKERS))]) + random.uniform(-0.15, 0.15, 3)
        strength = random.uniform(1.0, 4.5) * np.clip(colour, 0.05, None)
        marker = torch.from_numpy((strength[:, None, None] * amount).astype(np.float32))
        ground = image[:, ~inside].mean(1)[:, None, None]  # the counterstain of nuclei is often pale
        return {"marker": marker, "ground": ground, "paleness": random.uniform(0.35, 1)}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Pale what was there and darken it by the marker; labels stay."""
        if params["marker"] is not None:
            ground = params["ground"]
            image = ground + params["paleness"] * (data_dict["image"] - ground) - params["marker"]
            spread, mean = torch.std_mean(image, (1, 2), keepdim=True)
            data_dict["image"] = (image - mean) / spread.clamp(min=1e-3)
        return data_dict


def _is_absorbing(image: Tensor, inside: Tensor) -> bool:
    """Whether this is a colour picture whose objects are darker than their surroundings: transmitted light."""
    if not bool(inside.any()) or bool(inside.all()) or torch.equal(image[0], image[2]):
        return False
    return bool(image[:, inside].mean() < image[:, ~inside].mean() - 0.3)


def _noise(random: np.random.Generator, shape: tuple[int, ...], *sigma_px: float) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and deviation 1; two widths make fibres along an axis."""
    sigma = sigma_px if len(sigma_px) > 1 else sigma_px[0]
    field = gaussian_filter(random.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)
