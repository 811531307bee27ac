"""Ten hours of painting in one go: does the journal stay small, quick to open, and whole?

    python benchmarks/journal_soak.py [STROKES]

A stroke a second for ten hours is 36,000. Half of them fall on a picture of 2048 x 2048 full of predicted cells, half
on a volume of 512 x 512 x 512; every tenth is undone. The last line says how many strokes there were and how many did
not come back; before it, JSON with the size of the journal and the times on this machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mambaseg.image import Grid
from mambaseg.learn import ImageIdentity, Project, ProjectImage

SHAPES = ((2048, 2048), (512, 512, 512))
LENGTH = 30


def identity(shape: tuple[int, ...]) -> ImageIdentity:
    grid = Grid(shape, (1.0,) * len(shape))
    return ImageIdentity(f"{len(shape)}" * 64, shape, "ZYX"[-len(shape):], grid.spacing, grid.unit, grid.origin_xyz,
                         grid.direction)


def cells(shape: tuple[int, ...]) -> np.ndarray:
    """Balls of 24 voxels, as a model would find them."""
    generator = np.random.default_rng(0)
    labels = np.zeros(shape, np.int32)
    ball = sum((np.arange(24) - 11.5).reshape([-1 if axis == i else 1 for i in range(len(shape))]) ** 2
               for axis in range(len(shape))) < 140
    for number in range(1, 3000):
        start = generator.integers(0, np.array(shape) - 24)
        labels[tuple(slice(first, first + 24) for first in start)][ball] = number
    return labels


def disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return y**2 + x**2 <= radius**2


def place(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[tuple[slice, ...], int]:
    """Where a stroke falls, in one slice, and the radius of its brush."""
    radius = int(generator.integers(2, 12))
    side = 2 * radius + 1 + LENGTH
    start = [int(generator.integers(0, extent - side)) for extent in shape[-2:]]
    planes = [int(generator.integers(0, extent)) for extent in shape[:-2]]
    return (*(slice(z, z + 1) for z in planes), *(slice(first, first + side) for first in start)), radius


def drag(area: np.ndarray, radius: int, value: int) -> None:
    """A disc dragged across a slice."""
    across = area.reshape(area.shape[-2:])
    for step in range(0, LENGTH, max(1, radius // 2)):
        across[step : step + 2 * radius + 1, step // 2 : step // 2 + 2 * radius + 1][disc(radius)] = value


def paint(images: list[ProjectImage], layers: list[np.ndarray], n_strokes: int) -> list[list[float]]:
    """Paint and undo; the milliseconds that each record took, for each image."""
    generator = np.random.default_rng(1)
    took_ms: list[list[float]] = [[], []]
    former: list[tuple[tuple[slice, ...], np.ndarray]] = [((), np.zeros(0))] * 2
    for number in range(n_strokes):
        which = number % 2
        layer = layers[which]
        if number % 20 < 18:
            box, radius = place(layer.shape, generator)
            former[which] = box, layer[box].copy()
            drag(layer[box], radius, 3000 + number)
        else:
            box, layer[former[which][0]] = former[which]
        began_s = time.perf_counter()
        images[which].record(layer, "brush", box)
        took_ms[which].append(1000 * (time.perf_counter() - began_s))
    return took_ms


def main(n_strokes: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAMBASEG_DATA"] = str(Path(folder) / "data")
        project = Project.create(Path(folder) / "project")
        images = [project.image(identity(shape), "instances") for shape in SHAPES]
        layers = [image.show_prediction(cells(shape)) for image, shape in zip(images, SHAPES, strict=True)]
        took_ms = paint(images, layers, n_strokes)
        figures = {f"record_{len(shape)}d_{name}_ms": round(float(np.percentile(times, at)), 1)
                   for shape, times in zip(SHAPES, took_ms, strict=True)
                   for name, at in (("median", 50), ("p99", 99), ("max", 100))}
        began_s = time.perf_counter()
        images[1].record(layers[1])
        figures["full_scan_512_cubed_s"] = round(time.perf_counter() - began_s, 2)
        began_s = time.perf_counter()
        images[0].counts()
        figures["counts_2d_s"] = round(time.perf_counter() - began_s, 2)
        project.close()
        figures["journal_mib"] = round((project.folder / "journal.sqlite").stat().st_size / 2**20, 1)
        began_s = time.perf_counter()
        project = Project.open(project.folder)
        images = [project.image(image.identity, "instances") for image in images]
        figures["open_s"] = round(time.perf_counter() - began_s, 2)
        whole = all((image.labels() == layer).all() for image, layer in zip(images, layers, strict=True))
        n_there = sum(stroke.tool == "brush" for stroke in project.journal.strokes())
        project.close()
    print(json.dumps(figures))
    n_lost = n_strokes - n_there if whole else n_strokes
    print(f"tried {n_strokes}, lost {n_lost}")
    return int(n_lost > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 36_000))
