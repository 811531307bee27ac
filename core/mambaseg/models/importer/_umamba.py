"""Sizes of a U-Mamba, either generation, from the names and shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mambaseg._errors import ModelError

__all__ = ["patch_for", "recognise_umamba", "strides_of"]

Shapes = Mapping[str, tuple[int, ...]]
Rows = list[list[int]]


def recognise_umamba(shapes: Shapes, strides: Sequence[Sequence[int]] | int | None,
                     patch_size: Sequence[int] | None) -> tuple[str, dict[str, Any]]:
    """Network name and configuration.

    Parameters
    ----------
    shapes : shape by canonical key
    strides, patch_size : from a plan; None: from the weights where they hold them (strides of generation 1)

    Raises
    ------
    ModelError : strides or patch size are wanted and not known, or contradict the weights
    LookupError, ValueError : a weight that every U-Mamba has is missing or has another rank
    """
    generation = 2 if "decoder.upsample_layers.0.conv.weight" in shapes else 1
    is_enc = any(key.startswith("encoder.mamba_layers.") for key in shapes)
    if not is_enc and ("mamba_layer.mamba.A_log" if generation == 2 else "mamba.A_log") not in shapes:
        raise ModelError("The weights hold Mamba layers, but neither along the encoder nor at the bottleneck as "
                         "U-Mamba has them; only the published networks can be imported.")
    first = "{}.0.conv1.weight" if generation == 2 else "{}.blocks.0.conv1.conv.weight"
    n_stages = 1 + max(int(match[1]) for key in shapes if (match := re.match(r"encoder\.stages\.(\d+)\.", key)))
    convolutions = [shapes[first.format(f"encoder.stages.{i}")] for i in range(n_stages)]
    ndim = len(shapes["decoder.seg_layers.0.weight"]) - 2
    steps = strides_of(shapes, generation, n_stages, ndim, strides)
    patch = patch_for(patch_size, steps)
    config: dict[str, Any] = {
        "in_channels": shapes["encoder.stem.0.conv1.weight" if generation == 2 else
                              "encoder.stem.convs.0.conv.weight"][1],
        "n_classes": shapes["decoder.seg_layers.0.weight"][0], "deep_supervision": False, "generation": generation,
        "features_per_stage": [shape[0] for shape in convolutions],
        "kernel_sizes": [list(shape[2:]) for shape in convolutions], "strides": steps, "patch_size": patch,
        "n_blocks_encoder": _blocks(shapes, "encoder", n_stages, generation),
        "n_blocks_decoder": _blocks(shapes, "decoder", n_stages - 1, generation)}
    if is_enc and generation == 2:
        _check_tokens(shapes, config)
    return ("umamba-enc" if is_enc else "umamba-bot"), config


def _blocks(shapes: Shapes, part: str, n_stages: int, generation: int) -> list[int]:
    """Residual blocks of each stage."""
    inner = r"" if generation == 2 else r"blocks\."
    return [len({match[1] for key in shapes if (match := re.match(rf"{part}\.stages\.{i}\.{inner}(\d+)\.", key))})
            for i in range(n_stages)]


def strides_of(shapes: Shapes, generation: int, n_stages: int, ndim: int,
               given: Sequence[Sequence[int]] | int | None) -> Rows:
    """Strides of each stage: those of generation 1 and of nnU-Net are in the weights, of generation 2 they are given.

    Raises
    ------
    ModelError : strides are wanted and not given, or contradict the weights
    """
    if isinstance(given, int):
        given = [[1] * ndim, *([[given] * ndim] * (n_stages - 1))]
    if generation == 1:
        kernels = [shapes[f"decoder.transpconvs.{j}.weight"][2:] for j in range(n_stages - 1)]
        found = [[1] * ndim, *(list(kernel) for kernel in reversed(kernels))]
        if given is not None and [list(row) for row in given] != found:
            raise ModelError(f"The strides given are {_rows(given)}, but the weights were trained with "
                             f"{_rows(found)}; give those, or the plan that belongs to the checkpoint.")
        return found
    if given is None:
        raise ModelError("The weights of this U-Mamba do not hold its strides, and no plan came along; give the whole "
                         f"nnU-Net model folder, or the strides of the {n_stages} stages with --strides (--strides 2 "
                         "for 2 everywhere after the first).")
    if len(given) != n_stages or any(len(row) != ndim for row in given):
        raise ModelError(f"The strides {_rows(given)} are given for {len(given)} stages, but the weights have "
                         f"{n_stages} stages of {ndim} axes; give one row a stage.")
    return [list(row) for row in given]


def patch_for(given: Sequence[int] | None, strides: Rows) -> list[int]:
    """The patch size, which no weights hold.

    Raises
    ------
    ModelError : it is not given, or does not divide by the strides
    """
    if given is None:
        raise ModelError("The patch size that this network was trained with is not in its weights, and no plan came "
                         f"along; give the whole nnU-Net model folder, or the {len(strides[0])} sides with --patch.")
    steps = [math.prod(row[axis] for row in strides) for axis in range(len(strides[0]))]
    if len(given) != len(steps) or any(side < step or side % step for side, step in zip(given, steps, strict=False)):
        raise ModelError(f"The patch size {_row(given)} does not go with the network, whose sides are multiples of "
                         f"{_row(steps)}; give another.")
    return list(given)


def _check_tokens(shapes: Shapes, config: Mapping[str, Any]) -> None:
    """Check that the patch size gives every Mamba layer of generation 2 the width that it was trained with."""
    size = list(config["patch_size"])
    for i, (width, steps) in enumerate(zip(config["features_per_stage"], config["strides"], strict=True)):
        size = [side // step for side, step in zip(size, steps, strict=True)]
        trained = shapes.get(f"encoder.mamba_layers.{i}.norm.weight")
        n_voxels = math.prod(size)
        expected = n_voxels if n_voxels <= width else width  # channel tokens are as wide as the map has voxels
        if trained is not None and trained[0] != expected:
            raise ModelError(f"The patch size {_row(config['patch_size'])} does not go with the weights: the Mamba "
                             f"layer of stage {i} was trained {trained[0]} wide, but would be {expected}; give the "
                             "patch size of the training with --patch.")


def _row(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _rows(rows: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(str(side) for side in row) for row in rows)
