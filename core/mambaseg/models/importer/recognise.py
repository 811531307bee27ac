"""Which network official weights belong to, and its sizes, from the names and shapes of the weights alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.models.importer._nnunet import recognise_nnunet
from mambaseg.models.importer._umamba import recognise_umamba
from mambaseg.nets import canonical_key
from mambaseg.nets.pvt import PVT_SIZES

__all__ = ["Recognised", "Strides", "official_names", "recognise"]

Shapes = Mapping[str, tuple[int, ...]]
Strides = Sequence[Sequence[int]]

_BACKBONES: dict[tuple[int, tuple[int, ...]], str] = {
    (size.widths[0], size.depths): name for name, size in PVT_SIZES.items()}
_SUPPORTED = "U-Mamba, VM-UNet, VM-UNetV2, U-Net v2 and nnU-Net"


@dataclass(frozen=True)
class Recognised:
    """What the names and shapes say.

    Parameters
    ----------
    network : name in `mambaseg.nets.NETWORKS`
    config : keyword arguments of `mambaseg.nets.build`; plain JSON values; the network gives logits
    notes : sentences for people on what could not be read from the weights and was assumed
    is_told : the folder says the configuration, as one that mambaseg exported does, and the plan goes with it
    """

    network: str
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    is_told: bool = False

    @property
    def n_classes(self) -> int:
        """Outputs of the network."""
        return int(self.config["n_classes"])

    @property
    def in_channels(self) -> int:
        """Channels that the network takes."""
        return int(self.config["in_channels"])


def official_names(keys: Sequence[str]) -> dict[str, str]:
    """Official name by given name, where weights were saved under others that compute the same.

    The trainers of U-Net v2's ISIC part call the encoder ``backbone`` and the SDI ``attention``. Their experiments with
    other layers under these names are left alone, and so refused later.
    """
    heads = {key.split(".")[0] for key in keys}
    is_same = {"backbone", "attention_1", "ca_1", "sa_1"} <= heads and "deconv2_conv" not in heads
    if not (is_same and {"Translayer_1.conv.weight", "Translayer_1.bn.weight"} <= set(keys)):
        return {key: key for key in keys}
    return {key: re.sub(r"^attention_(\d)\.", r"sdi_\1.", re.sub(r"^backbone\.", "encoder.backbone.", key))
            for key in keys}


def recognise(shapes: Shapes, *, strides: Strides | int | None = None,
              patch_size: Sequence[int] | None = None, deep_supervision: bool | None = None) -> Recognised:
    """The network that weights of these names and shapes belong to.

    Parameters
    ----------
    shapes : shape by official key; alias keys may be there or not
    strides : of the stages, where a plan says them; U-Mamba's second generation keeps none in the weights. A number
        stands for all axes of all stages after the first
    patch_size : of U-Mamba and nnU-Net, where a plan says it
    deep_supervision : of VM-UNetV2, where it changes the result; None: as published, which is on for one class

    Raises
    ------
    ModelError : not a network of ours (says what it is where that is known), or strides or patch size are wanted
    """
    shapes = {canonical_key(key): shape for key, shape in shapes.items()}
    try:
        return _family(shapes, strides, patch_size, deep_supervision)
    except (LookupError, ValueError) as error:  # a name or a shape that the family always has is missing
        raise ModelError(f"The weights look like one of {_SUPPORTED}, but are incomplete or changed (near "
                         f"{error}); get a fresh copy of the checkpoint.") from error


def _family(shapes: Shapes, strides: Strides | int | None, patch_size: Sequence[int] | None,
            deep_supervision: bool | None) -> Recognised:
    if "vmunet.patch_embed.proj.weight" in shapes:
        is_v2 = "sdi_1.convs.0.weight" in shapes
        return _vmunetv2(shapes, deep_supervision) if is_v2 else _vmunet(shapes)
    if "encoder.backbone.patch_embed1.proj.weight" in shapes:
        return _unetv2(shapes)
    if any(name in shapes for name in ("decoder.upsample_layers.0.conv.weight", "decoder.transpconvs.0.weight")):
        recognise_sizes = recognise_umamba if any("mamba" in key for key in shapes) else recognise_nnunet
        network, config = recognise_sizes(shapes, strides, patch_size)
        return Recognised(network, config)
    raise _unknown(shapes)


def _unknown(shapes: Shapes) -> ModelError:
    """What weights are that hold no network of ours."""
    if "patch_embed1.proj.weight" in shapes:
        return ModelError("These are PVT v2 weights of an ImageNet classifier, not of a segmentation network; they are "
                          "a start for training: mambaseg train --network unetv2 --initial FILE.")
    if "layers.0.blocks.0.self_attention.x_proj_weight" in shapes:
        return ModelError("These are VMamba weights of an ImageNet classifier, not of a segmentation network; they are "
                          "a start for training: mambaseg train --network vmunet --initial FILE.")
    if any(re.search(r"layers\.0\.blocks\.0\.(op|norm|mlp)\b", key) for key in shapes):
        return ModelError("These are weights of a newer VMamba, whose blocks differ from those of VM-UNet and "
                          "VM-UNetV2; take the release that these were made with.")
    first = ", ".join(list(shapes)[:3])
    return ModelError(f"These weights ({len(shapes)} entries: {first[:200]}, ...) are of no network that can be "
                      f"imported; known are {_SUPPORTED}.")


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the place of the group in keys that begin with the pattern."""
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})


def _depths(shapes: Shapes, layers: str) -> list[int]:
    """Blocks of each of the layers under a name."""
    n_layers = _count(shapes, rf"{re.escape(layers)}\.(\d+)\.")
    return [_count(shapes, rf"{re.escape(layers)}\.{i}\.blocks\.(\d+)\.") for i in range(n_layers)]


def _vssm(shapes: Shapes) -> dict[str, Any]:
    """What VM-UNet and VM-UNetV2 have in common."""
    return {"in_channels": shapes["vmunet.patch_embed.proj.weight"][1], "depths": _depths(shapes, "vmunet.layers"),
            "d_state": shapes["vmunet.layers.0.blocks.0.self_attention.A_logs"][1], "activate": False}


def _vmunet(shapes: Shapes) -> Recognised:
    config = _vssm(shapes) | {
        "n_classes": shapes["vmunet.final_conv.weight"][0], "depths_decoder": _depths(shapes, "vmunet.layers_up"),
        "width": shapes["vmunet.patch_embed.proj.weight"][0]}
    return Recognised("vmunet", config)


def _vmunetv2(shapes: Shapes, deep_supervision: bool | None) -> Recognised:
    n_classes = shapes["seg_outs.0.weight"][0]
    is_on = n_classes == 1 and deep_supervision is not False  # with more classes there is none
    config = _vssm(shapes) | {"n_classes": n_classes, "mid_channel": shapes["Translayer_1.conv.weight"][0],
                              "deep_supervision": is_on}
    notes = ("Whether VM-UNetV2 was trained with deep supervision cannot be read from its weights; it was taken to be, "
             "as published. If not, import it with --no-deep-supervision.",)
    return Recognised("vmunetv2", config, notes if is_on and deep_supervision is None else ())


def _unetv2(shapes: Shapes) -> Recognised:
    width = shapes["encoder.backbone.patch_embed1.proj.weight"][0]
    depths = tuple(_count(shapes, rf"encoder\.backbone\.block{i}\.(\d+)\.") for i in (1, 2, 3, 4))
    if (width, depths) not in _BACKBONES:
        raise ModelError(f"The encoder looks like PVT v2 with {width} channels and depths {depths}, but only B0 to B5 "
                         "are known; such weights cannot be imported.")
    if "sdi_1.convs.0.weight" not in shapes or "deconv2.weight" not in shapes:
        raise ModelError("These weights are of an experimental variant of U-Net v2 with another decoder, which cannot "
                         "be imported; only the published network can.")
    n_classes = shapes["seg_outs.0.weight"][0]
    config = {"n_classes": n_classes, "backbone": _BACKBONES[width, depths],
              "in_channels": shapes["encoder.backbone.patch_embed1.proj.weight"][1],
              "channel": shapes["Translayer_1.conv.weight"][0], "deep_supervision": False,
              "fuse": n_classes == 1}  # one class is the polyp variant; of two outputs the authors take the sum
    return Recognised("unetv2", config)
