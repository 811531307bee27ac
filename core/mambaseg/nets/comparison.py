"""The networks that U-Mamba is compared with in its paper, from the libraries that publish them.

nnU-Net's two come from dynamic-network-architectures, SegResNet, UNETR and Swin UNETR from MONAI; the extra `compare`
brings both. State dictionaries carry the libraries' own keys, nnU-Net's each tensor under one of its several names.
The plan decides widths: nnU-Net's base of 32 channels gives the sizes with which the U-Mamba authors ran the other
three (their trainers of January 2024), another base scales them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mambaseg._errors import MissingPackageError
from mambaseg.nets.official import canonical_key
from mambaseg.nets.sizes import SizeRule
from mambaseg.plan.plan import Plan
from mambaseg.plan.rules import PLANNERS

__all__ = ["CONFIGS", "NETWORKS", "nnunet", "segresnet", "swinunetr", "unetr"]

_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_UNETR_PATCH = 16  # sides of a token
_SWIN_STEP = 32  # patch of 2, then four times merged


def nnunet(encoder: str, in_channels: int, n_classes: int, features_per_stage: Sequence[int],
           kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], n_blocks_encoder: Sequence[int],
           n_blocks_decoder: Sequence[int], patch_size: Sequence[int] | None = None,
           deep_supervision: bool = False) -> nn.Module:
    """nnU-Net's U-Net (doi:10.1038/s41592-020-01008-z), (batch, in_channels, *S) -> logits (batch, n_classes, *S).

    Parameters
    ----------
    encoder : "plain" (convolutions) or "residual" (arXiv:2404.09556)
    in_channels, n_classes : channels in, logits out
    features_per_stage, kernel_sizes, strides : one entry a stage; sides must divide by the product of the strides
    n_blocks_encoder : convolutions, or residual blocks, a stage
    n_blocks_decoder : convolutions a level, from the deepest
    patch_size : not needed, any size that divides is taken; there because the plan gives it
    deep_supervision : return a list of logits of every level, full resolution first

    Raises
    ------
    MissingPackageError : dynamic-network-architectures is not installed
    """
    with _brought_by("dynamic-network-architectures"):
        from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    if encoder not in ("plain", "residual"):
        raise ValueError(f"encoder {encoder!r}: plain or residual")
    ndim = len(strides[0])
    is_residual = encoder == "residual"
    network = (ResidualEncoderUNet if is_residual else PlainConvUNet)(
        input_channels=in_channels, n_stages=len(features_per_stage), features_per_stage=list(features_per_stage),
        conv_op=_CONVOLUTION[ndim], kernel_sizes=[list(kernel) for kernel in kernel_sizes],
        strides=[list(stride) for stride in strides], num_classes=n_classes,
        n_conv_per_stage_decoder=list(n_blocks_decoder), conv_bias=True, norm_op=_NORM[ndim],
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
        **{"n_blocks_per_stage" if is_residual else "n_conv_per_stage": list(n_blocks_encoder)})
    network.apply(network.initialize)
    network.register_state_dict_post_hook(_drop_aliases)
    network.register_load_state_dict_pre_hook(_add_aliases)
    multiple = tuple(math.prod(steps) for steps in zip(*strides, strict=True))
    return _sized(network, SizeRule(multiple, least_cells=2))


def segresnet(ndim: int, in_channels: int, n_classes: int, width: int = 32) -> nn.Module:
    """SegResNet (arXiv:1810.11654) without its autoencoder; sides are multiples of 8.

    Parameters
    ----------
    ndim : 2 or 3
    in_channels, n_classes : channels in, logits out
    width : channels at full resolution, a multiple of 8

    Raises
    ------
    MissingPackageError : MONAI is not installed
    """
    with _brought_by("monai"):
        from monai.networks.nets.segresnet import SegResNet
    blocks = (1, 2, 2, 4)
    network = SegResNet(spatial_dims=ndim, init_filters=width, in_channels=in_channels, out_channels=n_classes,
                        blocks_down=blocks, blocks_up=(1, 1, 1))
    return _sized(network, SizeRule(2 ** (len(blocks) - 1)))


def unetr(in_channels: int, n_classes: int, patch_size: Sequence[int], width: int = 16,
          hidden_size: int = 768) -> nn.Module:
    """UNETR (arXiv:2103.10504), which takes images of `patch_size` only, in 2-D or 3-D.

    Parameters
    ----------
    in_channels, n_classes : channels in, logits out
    patch_size : the image's sides, multiples of 16
    width : channels at full resolution
    hidden_size : of a token, a multiple of its 12 heads; the feed-forward parts are four times as wide

    Raises
    ------
    MissingPackageError : MONAI is not installed
    """
    with _brought_by("monai"):
        from monai.networks.nets.unetr import UNETR
    SizeRule(_UNETR_PATCH).check(patch_size)
    network = UNETR(in_channels=in_channels, out_channels=n_classes, img_size=tuple(patch_size), feature_size=width,
                    hidden_size=hidden_size, mlp_dim=4 * hidden_size, num_heads=12, spatial_dims=len(patch_size))
    return _sized(network, SizeRule(_UNETR_PATCH, exact=tuple(patch_size)))


def swinunetr(ndim: int, in_channels: int, n_classes: int, width: int = 48) -> nn.Module:
    """Swin UNETR (arXiv:2201.01266); sides are multiples of 32, not all of them 32.

    Parameters
    ----------
    ndim : 2 or 3
    in_channels, n_classes : channels in, logits out
    width : channels at half resolution, a multiple of 12

    Raises
    ------
    MissingPackageError : MONAI is not installed
    """
    with _brought_by("monai"):
        from monai.networks.nets.swin_unetr import SwinUNETR
    with _LinspaceOnCPU():
        network = SwinUNETR(in_channels=in_channels, out_channels=n_classes, feature_size=width, spatial_dims=ndim)
    return _sized(network, SizeRule(_SWIN_STEP, least_cells=2))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "nnunet": partial(nnunet, "plain"), "nnunet-resenc": partial(nnunet, "residual"), "segresnet": segresnet,
    "unetr": unetr, "swinunetr": swinunetr}


def _nnunet_config(plan: Plan, deep_supervision: bool) -> dict[str, Any]:
    sizes = plan.to_json()
    keys = ("features_per_stage", "kernel_sizes", "strides", "n_blocks_encoder", "n_blocks_decoder", "patch_size")
    return {"deep_supervision": deep_supervision, **{key: sizes[key] for key in keys}}


def _resenc_config(plan: Plan, deep_supervision: bool) -> dict[str, Any]:
    """As nnU-Net's residual planners have it, whatever blocks the plan names for U-Mamba."""
    blocks, n_stages = PLANNERS["resenc-m"].blocks, len(plan.features_per_stage)
    return _nnunet_config(plan, deep_supervision) | {
        "n_blocks_encoder": blocks.per_stage(n_stages), "n_blocks_decoder": (blocks.decoder,) * (n_stages - 1)}


def _unetr_config(plan: Plan, deep_supervision: bool) -> dict[str, Any]:
    base = plan.features_per_stage[0]
    return {"patch_size": SizeRule(_UNETR_PATCH).fit(plan.patch_size), "width": max(1, base // 2),
            "hidden_size": 24 * base}


def _multiple(value: float, of: int) -> int:
    """The multiple of a number that is nearest, at least 1 time."""
    return of * max(1, round(value / of))


# Constructor arguments from a plan and whether deep supervision is wanted, without channels and classes
CONFIGS: dict[str, Callable[[Plan, bool], dict[str, Any]]] = {
    "nnunet": _nnunet_config,
    "nnunet-resenc": _resenc_config,
    "segresnet": lambda plan, deep: {"ndim": plan.ndim, "width": _multiple(plan.features_per_stage[0], of=8)},
    "unetr": _unetr_config,
    "swinunetr": lambda plan, deep: {"ndim": plan.ndim, "width": _multiple(1.5 * plan.features_per_stage[0], of=12)},
}


@contextlib.contextmanager
def _brought_by(package: str) -> Iterator[None]:
    """Say which extra brings a package that cannot be imported."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(f"This network comes from the package {package}, which is not installed; install it: "
                                  'pip install "mambaseg[compare]"') from error


def _sized(network: Any, rule: SizeRule) -> nn.Module:
    """The network with its size rule, which is checked before the library's own code meets an image."""
    network.size_rule = rule
    network.register_forward_pre_hook(_check_size)
    sized: nn.Module = network
    return sized


def _check_size(network: Any, images: tuple[Tensor, ...]) -> None:
    network.size_rule.check(images[0].shape[2:])


def _drop_aliases(network: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Keep one name for each tensor: nnU-Net registers those of the encoder up to four times."""
    for key in list(state):
        if canonical_key(key.removeprefix(prefix)) != key.removeprefix(prefix):
            del state[key]


def _add_aliases(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Give back the names that `_drop_aliases` took, which strict loading asks for."""
    for name, _tensor in (*network.named_parameters(remove_duplicate=False),
                          *network.named_buffers(remove_duplicate=False)):
        owner = prefix + canonical_key(name)
        if owner in state:
            state.setdefault(prefix + name, state[owner])


class _LinspaceOnCPU(TorchFunctionMode):
    """Swin UNETR reads its drop path rates out of a tensor, which has no values in a network without memory (meta)."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)
