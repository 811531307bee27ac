"""nnU-Net's augmentation through batchgeneratorsv2, with additions for colour pictures of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.intensity.inversion import InvertImageTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor

from mambaseg.plan import Plan
from mambaseg.train.colour import OtherLight
from mambaseg.train.sample import is_dummy_2d, rotation_range
from mambaseg.train.stain import MarkerStain

__all__ = ["augmentation", "seed_augmentation", "spoil"]

_WARP_SCALE = (0.05, 0.15)  # coarseness of an elastic deformation, as a share of the patch
_WARP_VOXELS = (1.0, 8.0)  # its greatest shift


class _ToGrey(ImageOnlyTransform):  # type: ignore[misc]  # batchgeneratorsv2 has no types
    """All channels become their mean: what a grey picture looks like to a colour model."""

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return img.mean(0, keepdim=True).expand_as(img).clone()


def augmentation(plan: Plan, instances: bool, pictures: bool, mirror_axes: tuple[int, ...] | None = None,
                 small_data: bool = False, other_looks: bool = True) -> Any:
    """Transforms for one sample, ``compose(image=(channel, *S) float, segmentation=(1, *S))``.

    Parameters
    ----------
    instances : labels are instance numbers: nearest neighbour when turned or scaled, so that none mixes with another
    pictures : 2-D pictures, whose scale varies more than a scanner's does; of objects (cells) polarity and stain, too;
        of classes in colour (photographs) the light
    mirror_axes : spatial axes that may be mirrored; None: all
    small_data : for some tens of pictures: every patch is turned, and half of them are warped
    other_looks : of objects in pictures: polarity and stain vary; not where only pictures like the given ones matter
    """
    dummy_2d = is_dummy_2d(plan.patch_size)
    steps: list[Any] = [_spatial(plan, instances, pictures, dummy_2d, small_data)]
    if dummy_2d:
        steps = [Convert3DTo2DTransform(), *steps, Convert2DTo3DTransform()]
    is_colour = len(plan.normalisation) == 3
    if pictures and is_colour and instances and other_looks:
        steps += [_random(MarkerStain(), 0.5), _random(_ToGrey(), 0.1)]
    if pictures and is_colour and not instances:
        steps.append(_random(OtherLight(), 0.8))
    elif pictures and other_looks:
        steps.append(_random(InvertImageTransform(p_invert_image=1, p_synchronize_channels=1), 0.1))
    steps += _intensity(dummy_2d)
    steps.append(MirrorTransform(allowed_axes=tuple(range(plan.ndim)) if mirror_axes is None else mirror_axes))
    return ComposeTransforms(steps)


def _random(transform: Any, probability: float) -> Any:
    return RandomTransform(transform, apply_probability=probability)


def _spatial(plan: Plan, instances: bool, pictures: bool, dummy_2d: bool, small_data: bool) -> Any:
    angle = rotation_range(plan.patch_size)
    mirrored = pictures and plan.fit == "windows"  # a picture seen as a whole is not continued beyond its edge
    return SpatialTransform(
        plan.patch_size[1:] if dummy_2d else plan.patch_size, patch_center_dist_from_border=0, random_crop=False,
        p_elastic_deform=0.5 if small_data else 0, elastic_deform_scale=_WARP_SCALE,
        elastic_deform_magnitude=_WARP_VOXELS,
        p_rotation=1 if small_data else 0.5 if pictures else 0.2, rotation=(-angle, angle),
        p_scaling=0.5 if pictures else 0.2, scaling=(0.6, 2.2) if mirrored else (0.7, 1.4),
        p_synchronize_scaling_across_axes=1, padding_mode_image="reflection" if mirrored else "zeros",
        border_mode_seg="reflection" if mirrored else "constant", padding_value_seg=-1,
        mode_seg="nearest" if instances else "bilinear")


def _intensity(dummy_2d: bool) -> list[Any]:
    """Noise, blur, brightness, contrast, low resolution and gamma in nnU-Net's order and ranges."""
    around_one = BGContrast((0.75, 1.25))
    gamma = {"gamma": BGContrast((0.7, 1.5)), "synchronize_channels": False, "p_per_channel": 1, "p_retain_stats": 1}
    return [
        _random(GaussianNoiseTransform(noise_variance=(0, 0.1), synchronize_channels=True), 0.1),
        _random(GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_channel=0.5), 0.2),
        _random(MultiplicativeBrightnessTransform(multiplier_range=around_one, synchronize_channels=False), 0.15),
        _random(ContrastTransform(contrast_range=around_one, preserve_range=True, synchronize_channels=False), 0.15),
        _random(SimulateLowResolutionTransform(
            scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True,
            ignore_axes=(0,) if dummy_2d else None, allowed_channels=None, p_per_channel=0.5), 0.25),
        _random(GammaTransform(p_invert_image=1, **gamma), 0.1),
        _random(GammaTransform(p_invert_image=0, **gamma), 0.3),
    ]


def spoil(channels: Tensor) -> Tensor:
    """Labels of a previous stage with mistakes in them, so that the network does not simply believe them (nnU-Net).

    Of two patches in five, each label is dilated, eroded, opened or closed with a chance of one half, by a ball of 1 to
    8 voxels. Of one in five, each loses a piece with a chance of one half, unless it fills 15 % of the patch.

    Parameters
    ----------
    channels : float, (label, *S), ones and zeros; changed
    """
    numbers = range(len(channels))  # the transforms shuffle their lists: fresh ones, so that the seed decides alone
    steps = [
        _random(ApplyRandomBinaryOperatorTransform([*numbers], strel_size=(1, 8), p_per_label=0.5), 0.4),
        _random(RemoveRandomConnectedComponentFromOneHotEncodingTransform(
            [*numbers], fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.15, p_per_label=0.5), 0.2)]
    spoiled: Tensor = ComposeTransforms(steps)(image=channels)["image"]
    return spoiled


def seed_augmentation(seed: int) -> None:
    """Seed the global generators that batchgeneratorsv2 draws from."""
    np.random.seed(seed)  # noqa: NPY002 - the library offers no generator argument
    torch.default_generator.manual_seed(seed)  # of the processor; a GPU's goes on
