"""Whether a volume is a CT, and a model made for CT: a network for MRI finds nothing sensible in a CT."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

import slicer
from mambaseg.models import Model

__all__ = ["is_ct", "made_for", "mismatch"]

_WAY_OUT = ("{volume} looks like a CT, but {model} was made for MRI; “From a folder…” in the list of models opens an "
            "official U-Mamba or nnU-Net model for CT.")
_AIR_HU = -500  # below it lies only air, which is around every patient; MRI has no such values
_BONE_HU = (150, 32767)  # the densest voxel: something denser than soft tissue, and no float that was scaled
_N_LOOKED_AT = 2**14


def is_ct(node: Any) -> bool:
    """Whether a volume node is a CT: DICOM says so, or its values are such as Hounsfield units are."""
    units = node.GetVoxelValueUnits()
    if units is not None and "hnsf" in (units.GetCodeValue() or ""):
        return True
    data = node.GetImageData()
    if data is None or data.GetNumberOfScalarComponents() != 1 or data.GetPointData().GetScalars() is None:
        return False
    values = slicer.util.arrayFromVolume(node).reshape(-1)
    looked_at = values[::max(1, values.size // _N_LOOKED_AT)]
    looked_at = looked_at[np.isfinite(looked_at)]
    if not looked_at.size:
        return False
    low, high = looked_at.min(), looked_at.max()
    return bool(low < _AIR_HU and _BONE_HU[0] < high <= _BONE_HU[1])


def made_for(model: Model) -> str:
    """"CT" or "MRI", as far as the model says; else empty."""
    said = " ".join((model.title, model.description, *model.channels))
    if "ct" in model.plan.normalisation or re.search(r"\bCT\b", said):
        return "CT"
    return "MRI" if re.search(r"\b(MRI?|T1w?|T2w?|FLAIR)\b", said) else ""


def mismatch(node: Any, model: Model | None) -> str:
    """A sentence with the way out where a CT meets a model for MRI; else empty."""
    if node is None or model is None or made_for(model) != "MRI" or not is_ct(node):
        return ""
    return _WAY_OUT.format(volume=node.GetName(), model=model.title)
