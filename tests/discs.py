"""Pictures that any network learns in seconds: bright discs on a noisy ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

SIDE = 64


def write_dataset(folder: Path, n: int = 6, instances: bool = True, colour: bool = False, **dataset_json: Any) -> Path:
    """Bright discs on a noisy ground."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(n):
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for number, (cy, cx) in enumerate([(14, 14), (14, 48), (48, 14), (46, 46)], 1):
            labels[(y - cy - random.integers(-3, 4)) ** 2 + (x - cx) ** 2 < 64] = number if instances else 1
        image = 200 * (labels > 0) + 40 + random.normal(0, 10, labels.shape)
        grey = image.clip(0, 255).astype(np.uint8)
        tifffile.imwrite(folder / "images" / f"case{index}.tif", np.stack([grey] * 3, -1) if colour else grey,
                         photometric="rgb" if colour else "minisblack")
        tifffile.imwrite(folder / "labels" / f"case{index}.tif", labels)
    if dataset_json:
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def touching_discs(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Picture (y, x) and object numbers; each disc touches the next, with no line between them."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int16)
    for number, (row, column) in enumerate([(12, 12), (12, 29), (12, 46), (34, 20), (34, 37), (52, 12)], 1):
        labels[((y - row) ** 2 + (x - column) ** 2 <= 64) & (labels == 0)] = number
    image = (labels > 0) + np.random.default_rng(seed).normal(0, 0.2, labels.shape)
    return image.astype(np.float32), labels
