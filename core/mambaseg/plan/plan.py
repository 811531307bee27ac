"""The plan: every size and rule that a model's pictures and patches follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FITS", "Plan"]

FITS = ("windows", "bilinear", "antialias", "cubic")
_MM_PER_UNIT = {"mm": 1.0, "um": 1e-3}


@dataclass(frozen=True)
class Plan:
    """How images become network input, and how large the network is.

    Axes follow nnU-Net: ``transpose`` is applied to the spatial axes first; `patch_size`, `spacing`, `kernel_sizes`
    and `strides` are in that transposed order.

    Parameters
    ----------
    ndim : 2 or 3, spatial axes that the network sees
    patch_size : voxels per axis, `ndim` values; training crop and prediction window
    batch_size : patches an iteration
    transpose : permutation of the image's spatial axes (identity for most); 2-D plans of pictures use (0, 1)
    spacing : voxel size the network works at, `ndim` values; None: the picture's own grid, never resampled
    unit : of `spacing`, "mm" or "um"; sizes of the instance decoder are in it too; without a spacing they are in voxels
    normalisation : one of ct, zscore, percentile, rescale_to_0_1, rgb_to_0_1, nonorm; per channel
    use_mask_for_norm : per channel; statistics over the nonzero region only
    intensities : per channel, dataset intensity statistics (mean, std, percentile_00_5, percentile_99_5, ...); for ct
    crop_to_nonzero : cut away the all-zero rim before normalising (nnU-Net); False for microscopy
    features_per_stage, kernel_sizes, strides, n_blocks_encoder, n_blocks_decoder : size of the network, per stage
    batch_dice : Dice over the whole batch rather than per sample
    fit : how an image meets the patch, one of `FITS`. "windows": overlapping windows of the patch's size. The others
        resize the whole picture, or each slice of a volume, to the patch and the result back: "bilinear" and "cubic"
        without, "antialias" with smoothing where a picture shrinks; see `mambaseg.resample.resize`
    usual_spacing : voxel size of an image that does not tell its own, `ndim` values in `unit`: that of the pictures the
        model was trained on. None: such an image is not resampled
    orientation : where the axes x, y and z of the volumes lead that it was trained on, such as "RAS"; volumes that tell
        theirs are turned to it first (`mambaseg.orientation`). Empty: every volume is taken as it is stored
    """

    ndim: int
    patch_size: tuple[int, ...]
    batch_size: int
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_blocks_encoder: tuple[int, ...]
    n_blocks_decoder: tuple[int, ...]
    transpose: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    unit: str = "mm"
    normalisation: tuple[str, ...] = ("zscore",)
    use_mask_for_norm: tuple[bool, ...] = (False,)
    intensities: tuple[dict[str, float], ...] = ()
    crop_to_nonzero: bool = True
    batch_dice: bool = False
    fit: str = "windows"
    usual_spacing: tuple[float, ...] | None = None
    orientation: str = ""

    def spacing_of(self, spacing: Sequence[float], unit: str) -> tuple[float, ...] | None:
        """Voxel size of an image in the plan's unit, in the order of its axes; None: it keeps its own grid.

        Parameters
        ----------
        spacing : voxel size per axis, as the image tells it
        unit : of `spacing`; "px" where the image does not know its voxel size
        """
        if self.spacing is None or (unit == "px" and self.usual_spacing is None):
            return None
        if unit == "px":
            return (*(1.0,) * (len(spacing) - self.ndim), *(self.usual_spacing or ()))
        factor = _MM_PER_UNIT[unit] / _MM_PER_UNIT[self.unit]
        return tuple(size * factor for size in spacing)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of lists and numbers, for `model.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote; unknown keys raise TypeError."""
        return cls(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    """Lists of any depth as tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
