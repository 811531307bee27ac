"""Otsu and watershed: what a picture of nuclei gives without any learning, for comparison on the models' cards.

    python tools/baseline.py ../shared/data/nuclei2d
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from mambaseg import io
from mambaseg.metrics import f1

MIN_SIZE_PX = 20
MIN_DISTANCE_PX = 5


def otsu_watershed(image: NDArray[Any]) -> NDArray[np.int32]:
    """Labels of nuclei in a picture, (y, x) grey or (y, x, 3) colour.

    Otsu's threshold on the smoothed luminance; nuclei are the side with fewer pixels. Nuclei that touch are cut by a
    watershed on the distance to the background.
    """
    grey = gaussian(rgb2gray(image) if image.ndim == 3 else image.astype(float), 1)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, dtype=np.int32)
    bright = grey > threshold_otsu(grey)
    nuclei = ndimage.binary_fill_holes(~bright if bright.mean() > 0.5 else bright)
    nuclei = remove_small_objects(nuclei, max_size=MIN_SIZE_PX - 1)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(nuclei), 1)
    peaks = peak_local_max(depth, min_distance=MIN_DISTANCE_PX, labels=label(nuclei), exclude_border=False)
    cores = np.zeros(grey.shape, dtype=np.int32)
    cores[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, cores, mask=nuclei).astype(np.int32)


def baseline_f1(dataset: Path, part: str = "val") -> dict[str, float]:
    """Mean F1 at IoU 0.5 of `otsu_watershed` on a part of nuclei2d: over all pictures and by kind of picture."""
    kinds = {file["id"]: file["category"] for file in json.loads((dataset / "dataset.json").read_text())["files"]}
    scores: dict[str, list[float]] = {"all": []}
    for name in json.loads((dataset / "split.json").read_text())[part]:
        image = io.read(dataset / "images" / f"{name}.png")
        pixels = np.moveaxis(image.data, image.axes.index("C"), -1) if "C" in image.axes else image.data
        truth = io.read_labels(dataset / "labels" / f"{name}.tif").data
        score = f1(truth, otsu_watershed(pixels))
        scores["all"].append(score)
        scores.setdefault(kinds[name], []).append(score)
    return {kind: float(np.mean(values)) for kind, values in scores.items()}


if __name__ == "__main__":
    for kind, score in baseline_f1(Path(sys.argv[1])).items():
        print(f"{kind:12s} F1@0.5 {score:.3f}")
