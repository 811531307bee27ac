"""The record of a run: what was done to what, with which model and versions, and what it cost."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from typing import Any

import torch

import mambaseg
from mambaseg.image import Image
from mambaseg.machine import peak_memory_bytes
from mambaseg.models import Model

__all__ = ["Watch", "describe_image", "describe_model", "describe_program"]


@dataclass
class Watch:
    """Counts seconds from its making, and the memory of this process."""

    started_s: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the start, to a millisecond."""
        return round(time.perf_counter() - self.started_s, 3)

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory that this process has held so far, not only in the present run."""
        return peak_memory_bytes()


def describe_program() -> dict[str, str]:
    """Versions that a repetition of the run would need."""
    return {"mambaseg": mambaseg.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}"}


def describe_model(model: Model) -> dict[str, Any]:
    """Which model it was."""
    return {"name": model.name, "checksum": model.checksum, "network": model.network, "kind": model.kind}


def describe_image(image: Image) -> dict[str, Any]:
    """What the image was, without anything that could name a patient: no path, no header text, no DICOM file name."""
    is_dicom = str(image.metadata.get("format", "")).lower().startswith("dicom")
    return {"source": "DICOM series" if is_dicom else image.source, "axes": image.axes, "shape": list(image.data.shape),
            "dtype": str(image.data.dtype), "spacing": list(image.grid.spacing), "unit": image.grid.unit}
