"""Pictures for File > Open Sample: one real, two drawn; nothing is fetched."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cells_over_time", "nuclei_stack", "tissue"]

Layers = list[tuple[NDArray[Any], dict[str, Any], str]]


def tissue() -> Layers:
    """scikit-image's immunohistochemistry picture: nuclei in tissue, colour, 512 x 512."""
    from skimage import data

    return [(data.immunohistochemistry(), {"name": "tissue", "rgb": True}, "image")]


def cells_over_time() -> Layers:
    """Twenty drawn cells that drift and fade, every 5 minutes, six times; 0.65 um a pixel, uint16."""
    rng = np.random.default_rng(7)
    places, drift = rng.uniform(16, 240, (20, 2)), rng.normal(0, 2.5, (20, 2))
    radii, turns = rng.uniform(7, 11, (20, 2)), rng.uniform(0, np.pi, 20)
    frames = [_draw((256, 256), places + step * drift, radii, turns) * 0.93**step for step in range(6)]
    about = {"name": "cells over time", "scale": (5, 0.65, 0.65), "units": ("minute", "um", "um"),
             "axis_labels": ("t", "y", "x"), "colormap": "gray"}
    return [(_expose(np.stack(frames), rng), about, "image")]


def nuclei_stack() -> Layers:
    """Drawn nuclei in a stack of 24 slices, 1 um apart, 0.5 um a pixel; uint16."""
    rng = np.random.default_rng(11)
    places = np.column_stack([rng.uniform(3, 21, 40), rng.uniform(10, 182, (40, 2))])
    radii, turns = rng.uniform(7, 12, (40, 2)), rng.uniform(0, np.pi, 40)
    slices = []
    for height in range(24):
        share = np.sqrt(np.clip(1 - ((places[:, 0] - height) / 4.5) ** 2, 0, 1))  # an ellipsoid's cross-section
        inside = share > 0.2
        slices.append(_draw((192, 192), places[inside, 1:], radii[inside] * share[inside, np.newaxis], turns[inside]))
    about = {"name": "nuclei stack", "scale": (1, 0.5, 0.5), "units": ("um", "um", "um"),
             "axis_labels": ("z", "y", "x"), "colormap": "gray"}
    return [(_expose(np.stack(slices), rng), about, "image")]


def _draw(shape: tuple[int, int], places: NDArray[np.float64], radii: NDArray[np.float64],
          turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Soft-edged ellipses, 0 to 1."""
    rows, columns = np.mgrid[:shape[0], :shape[1]]
    picture = np.zeros(shape)
    for (y, x), (long, short), turn in zip(places, radii, turns, strict=True):
        along = (rows - y) * np.cos(turn) + (columns - x) * np.sin(turn)
        across = (columns - x) * np.cos(turn) - (rows - y) * np.sin(turn)
        distance = np.hypot(along / long, across / short)
        brightness = 0.6 + 0.4 * np.cos(3.0 * turn) ** 2
        picture = np.maximum(picture, brightness / (1 + np.exp(np.clip((distance - 1) * 12, -50, 50))))
    return picture


def _expose(brightness: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint16]:
    """As a camera sees it: an offset and photon noise."""
    return (rng.poisson(40 + 400 * brightness) * 10).astype(np.uint16)
