"""Draws the sample pictures and volumes with their true labels: `python make.py [FOLDER]`.

Everything is drawn from one seed, so that tests and examples know the truth to the pixel and no one's data are shipped.
Each function returns arrays; `write` puts them into files. Intensities follow the physics in outline: fluorescence is a
blurred sum with shot and read-out noise, tissue absorbs light by Beer and Lambert's law, magnetic resonance has a
smooth bias field and Rician noise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.uint16]
Floats = NDArray[np.float64]

SEED = 20240611
VOLUME_SPACING_XYZ_MM = (1.0, 1.0, 2.0)
PIXEL_UM = 0.65  # of the time series


def nuclei() -> tuple[NDArray[np.uint16], Labels]:
    """Fluorescent nuclei, (256, 256) uint16, some in touching groups, under uneven light; and one label a nucleus."""
    rng = np.random.default_rng([SEED, 1])
    shape = (256, 256)
    labels = _scatter(rng, shape, n_groups=17, group_sizes=(1, 1, 2, 3, 4), radius=(9.0, 13.0))
    depth = _depth(labels)
    chromatin = 1 + 0.22 * _clouds(rng, shape, 2.2) + 0.12 * _clouds(rng, shape, 1.0)
    brightness = _per_object(rng, labels, 0.45, 1.15)
    light = brightness * np.sqrt(np.minimum(depth, 7.0) / 7.0) * chromatin
    haze = 0.10 + 0.25 * ndimage.gaussian_filter(light, 14)
    sharp = ndimage.gaussian_filter(light, 1.1)
    y, x = np.mgrid[0:1:256j, 0:1:256j]
    lamp = 1.15 - 0.75 * ((x - 0.3) ** 2 + (y - 0.35) ** 2)
    return _camera(rng, 5200 * (sharp + haze) * lamp, offset=240, gain=3.5, read_noise=24), labels


def tissue() -> tuple[NDArray[np.uint8], Labels]:
    """A section stained with haematoxylin and eosin, (256, 256, 3) uint8: glands in fibrous stroma; its nuclei."""
    rng = np.random.default_rng([SEED, 2])
    shape = (256, 256)
    y, x = np.mgrid[0:256, 0:256].astype(float)
    lumen, epithelium = np.zeros(shape), np.zeros(shape, dtype=bool)
    labels: Labels = np.zeros(shape, dtype=np.uint16)
    for cy, cx, ry, rx, tilt in ((88, 84, 30, 24, 0.5), (182, 178, 26, 36, -0.4), (60, 214, 16, 13, 1.1)):
        wobble = 1 + 0.06 * np.sin(3 * np.arctan2(y - cy, x - cx) + cx)
        distance = _ellipse(y - cy, x - cx, ry, rx, tilt) / wobble
        reach = 1 + 25 / ry
        lumen = np.maximum(lumen, np.clip((1.0 - distance) * 6, 0, 1))
        epithelium |= distance < reach
        _ring_of_nuclei(rng, labels, (cy, cx), ((ry + 14) / ry, ry, rx, tilt))
    fibres, tilts = _fibres(rng, shape)
    _stroma_nuclei(rng, labels, epithelium, tilts, n=46)
    gland = ndimage.gaussian_filter(epithelium.astype(float), 1.5)
    gaps = np.clip(-fibres - 1.55, 0, 1) * (1 - gland)
    eosin = gland * (0.46 + 0.05 * _clouds(rng, shape, 2.0)) + (1 - gland) * (0.52 + 0.17 * fibres)
    eosin = ndimage.gaussian_filter(eosin, 0.6) * (1 - np.clip(lumen + 1.8 * gaps, 0, 0.97))
    is_nucleus = labels > 0
    rim = np.clip(1.6 - _depth(labels), 0, 1) * is_nucleus
    grain = 1 + 0.20 * _clouds(rng, shape, 1.3)
    stain = _per_object(rng, labels, 0.62, 1.0) * is_nucleus * grain + 0.28 * rim
    haematoxylin = ndimage.gaussian_filter(stain, 0.7) + 0.05 * gland
    # Optical densities per unit of stain, red, green, blue.
    absorbed = haematoxylin[..., None] * (0.95, 1.12, 0.50) + eosin[..., None] * (0.10, 0.72, 0.32)
    colours = 246 * np.exp(-absorbed) + rng.normal(0, 2.0, size=(*shape, 3))
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8), labels


def volume() -> tuple[NDArray[np.int16], NDArray[np.uint8], Floats]:
    """An MRI-like block of (x, y, z) 80 x 72 x 36 voxels, int16; its two structures; and the affine (RAS, mm).

    Label 1 is the round structure, label 2 the long one that touches it from behind. Voxels are 1 x 1 x 2 mm and the
    block lies obliquely in the world.
    """
    rng = np.random.default_rng([SEED, 3])
    shape = (80, 72, 36)
    x, y, z = np.indices(shape, dtype=float) * np.reshape(VOLUME_SPACING_XYZ_MM, (3, 1, 1, 1))
    wobble = 1 + 0.05 * _clouds(rng, shape, (6, 6, 3))
    front = ((x - 33) / 12) ** 2 + ((y - 44) / 9) ** 2 + ((z - 36) / 10) ** 2
    bent = y - 40 + 0.012 * (x - 52) ** 2
    behind = ((x - 55) / 15) ** 2 + (bent / 7) ** 2 + ((z - 34) / 8) ** 2
    labels = np.zeros(shape, dtype=np.uint8)
    labels[behind < wobble] = 2
    labels[front < wobble] = 1
    head = ((x - 40) / 39) ** 2 + ((y - 36) / 35) ** 2 + ((z - 36) / 42) ** 2
    folds = _clouds(rng, shape, (2.5, 2.5, 1.25)) + 2.2 * np.clip(head - 0.45, 0, 1)
    tissue_t1 = 300 + 190 / (1 + np.exp(9 * (folds - 0.45)))  # white matter inside, grey towards the folds
    tissue_t1 = np.where(folds > 1.5, 120, tissue_t1)  # fluid between the folds
    tissue_t1 = np.where(head > 0.93, 60, np.where(head > 0.84, 520, tissue_t1))  # fluid under a bright rim of fat
    fluid = (front < 1.35 * wobble) & (y > 44) & (labels == 0)
    intensity = np.select([labels == 1, labels == 2, fluid, head > 1.0], [415.0, 335.0, 130.0, 0.0], tissue_t1)
    intensity *= 1 + 0.05 * _clouds(rng, shape, (1.5, 1.5, 0.8))
    blurred = ndimage.gaussian_filter(intensity, (0.6, 0.6, 0.45))
    bias = 1 + 0.22 * (x / 80 - 0.5) - 0.18 * (z / 72 - 0.5)
    real, imaginary = rng.normal(0, 13, size=(2, *shape))
    return np.rint(np.hypot(blurred * bias + real, imaginary)).astype(np.int16), labels, _oblique_affine(shape)


def time_series() -> tuple[NDArray[np.uint16], Labels]:
    """Moving cells, (8, 128, 128) uint16, bleaching; labels keep a cell's number, one cell divides at frame 4.

    The daughters of the dividing cell get two new numbers.
    """
    rng = np.random.default_rng([SEED, 4])
    shape = (128, 128)
    starts = _spread(rng, 9, shape, margin=20, distance=27)
    steps, radii = rng.normal(0, 1.7, size=(9, 2)), rng.uniform(7.0, 10.0, size=9)
    tilts, outlines = rng.uniform(0, np.pi, size=9), rng.uniform(-1, 1, size=(11, 4))
    brightness = rng.uniform(0.6, 1.1, size=11)
    frames, truths = [], []
    for t in range(8):
        labels: Labels = np.zeros(shape, dtype=np.uint16)
        for i, (start, step) in enumerate(zip(starts, steps, strict=True)):
            centre = start + t * step
            along = np.array([np.sin(tilts[i]), np.cos(tilts[i])])
            if i == 0 and t >= 4:
                for number, side in ((10, -1), (11, 1)):
                    apart = centre + side * (4.5 + 1.2 * (t - 4)) * along
                    _paint(labels, number, apart, (5.4, 6.4), tilts[i], outlines[number - 1])
            else:
                longer = 1 + 0.10 * t * (i == 0)
                _paint(labels, i + 1, centre, (radii[i], radii[i] * 0.8 / longer), tilts[i], outlines[i])
        values = np.concatenate([[0.0], brightness])[labels]
        texture = 1 + 0.18 * _clouds(rng, shape, 1.8)
        light = values * np.sqrt(np.minimum(_depth(labels), 6.0) / 6.0) * texture
        signal = ndimage.gaussian_filter(light, 1.0) + 0.15 * ndimage.gaussian_filter(light, 10) + 0.05
        frames.append(_camera(rng, 2600 * 0.94**t * signal, offset=110, gain=2.5, read_noise=14))
        truths.append(labels)
    return np.stack(frames), np.stack(truths)


def arrays() -> dict[str, NDArray[Any]]:
    """Every array that is written, by file name; the volume in NIfTI's order (x, y, z)."""
    block, block_labels, _ = volume()
    files: dict[str, NDArray[Any]] = {"brain_block.nii.gz": block, "brain_block_labels.nii.gz": block_labels}
    files["nuclei.tif"], files["nuclei_labels.tif"] = nuclei()
    files["tissue.png"], files["tissue_labels.tif"] = tissue()
    files["cells_over_time.tif"], files["cells_over_time_labels.tif"] = time_series()
    return files


def write(folder: Path) -> list[Path]:
    """Draw everything into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = _oblique_affine((80, 72, 36))
    for name, array in arrays().items():
        path = folder / name
        if name.endswith(".png"):
            imageio.imwrite(path, array)
        elif name.endswith(".nii.gz"):
            nifti = nibabel.Nifti1Image(array, affine)
            nifti.header.set_xyzt_units("mm")
            nibabel.save(nifti, path)
        else:
            is_movie = array.ndim == 3
            metadata = {"axes": "TYX", "unit": "um", "finterval": 300.0} if is_movie else {"axes": "YX"}
            resolution = (1 / PIXEL_UM, 1 / PIXEL_UM) if is_movie else None
            tifffile.imwrite(path, array, imagej=is_movie, metadata=metadata, resolution=resolution, compression="zlib",
                             predictor=True)  # fmt: skip
    return sorted(folder / name for name in arrays())


def _camera(
    rng: np.random.Generator, electrons: Floats, offset: float, gain: float, read_noise: float
) -> NDArray[np.uint16]:
    """Counts of a camera: shot noise grows with the root of the signal, read-out noise is there always."""
    counts = electrons + rng.normal(size=electrons.shape) * np.sqrt(np.maximum(electrons, 0) * gain)
    counts = counts + offset + rng.normal(0, read_noise, size=electrons.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> Floats:
    """Smooth noise of mean 0 and spread 1; `sigma` in pixels is the size of its grains."""
    return _clouds_of(ndimage.gaussian_filter(rng.normal(size=shape), sigma))


def _clouds_of(noise: Floats) -> Floats:
    """`noise` with mean 0 and spread 1."""
    centred = noise - noise.mean()
    return np.asarray(centred / centred.std())


def _depth(labels: Labels) -> Floats:
    """Distance in pixels of each object's pixels to the object's own rim."""
    depth = np.zeros(labels.shape)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            inside = np.pad(labels[box] == number, 1)
            depth[box] += ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    return depth


def _per_object(rng: np.random.Generator, labels: Labels, low: float, high: float) -> Floats:
    """A random value for each object, 0 in the background."""
    values = rng.uniform(low, high, size=int(labels.max()) + 1)
    values[0] = 0
    return np.asarray(values[labels])


def _ellipse(dy: Floats, dx: Floats, ry: float, rx: float, tilt: float) -> Floats:
    """Distance from the centre in radii: 1 on the ellipse."""
    across = np.cos(tilt) * dy - np.sin(tilt) * dx
    along = np.sin(tilt) * dy + np.cos(tilt) * dx
    return np.asarray(np.hypot(across / ry, along / rx))


def _paint(
    labels: Labels, number: int, centre: Any, radii: tuple[float, float], tilt: float, outline: Any
) -> int:
    """Paint one wobbly ellipse where nothing lies yet; returns how many pixels it got."""
    y, x = np.indices(labels.shape, dtype=float)
    dy, dx = y - centre[0], x - centre[1]
    angle = np.arctan2(dy, dx)
    rim = 1 + 0.05 * (outline[0] * np.sin(2 * angle + outline[1]) + outline[2] * np.sin(3 * angle + outline[3]))
    is_inside = (_ellipse(dy, dx, *radii, tilt) < rim) & (labels == 0)
    labels[is_inside] = number
    return int(is_inside.sum())


def _spread(rng: np.random.Generator, n: int, shape: tuple[int, int], margin: int, distance: float) -> Floats:
    """`n` points at least `distance` apart and `margin` from the border."""
    points: list[Floats] = []
    while len(points) < n:
        point = rng.uniform(margin, np.array(shape) - margin)
        if all(np.hypot(*(point - other)) > distance for other in points):
            points.append(point)
    return np.array(points)


def _scatter(
    rng: np.random.Generator,
    shape: tuple[int, int],
    n_groups: int,
    group_sizes: tuple[int, ...],
    radius: tuple[float, float],
) -> Labels:
    """Single nuclei and groups whose members touch, numbered from 1 without gaps."""
    labels: Labels = np.zeros(shape, dtype=np.uint16)
    number = 1
    for seed in _spread(rng, n_groups, shape, margin=12, distance=45):
        centre, heading = seed, rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.choice(group_sizes))):
            size = rng.uniform(*radius)
            free = labels.copy()
            area = _paint(free, number, centre, (size, size * rng.uniform(0.72, 0.98)), rng.uniform(0, np.pi),
                          rng.normal(size=4))  # fmt: skip
            if area > 0.72 * np.pi * 0.8 * size**2:  # mostly hidden behind others or beyond the border: left out
                labels, number = free, number + 1
            heading += rng.uniform(0.6, 1.5)
            centre = centre + 1.72 * size * np.array([np.sin(heading), np.cos(heading)])
    return labels


def _ring_of_nuclei(
    rng: np.random.Generator, labels: Labels, centre: tuple[float, float], ring: tuple[float, float, float, float]
) -> None:
    """Oval nuclei side by side around a gland, long axes pointing to its middle; `ring` is scale, ry, rx, tilt."""
    scale, ry, rx, tilt = ring
    n = round(2 * np.pi * scale * (ry + rx) / 2 / 10.5)
    for angle in np.arange(n) * 2 * np.pi / n + rng.uniform(-0.04, 0.04, size=n):
        across = scale * ry * np.sin(angle) + rng.normal(0, 1.0)
        along = scale * rx * np.cos(angle) + rng.normal(0, 1.0)
        dy, dx = np.cos(tilt) * across + np.sin(tilt) * along, -np.sin(tilt) * across + np.cos(tilt) * along
        point = (centre[0] + dy, centre[1] + dx)
        if all(3 < p < 253 for p in point):
            long, wide = rng.uniform(6.4, 7.8), rng.uniform(4.2, 5.2)
            _paint(labels, int(labels.max()) + 1, point, (wide, long), float(np.arctan2(dy, dx)), rng.normal(size=4))


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Wavy collagen of mean 0 and spread 1, and its direction in radians (0 along x, y downwards)."""
    sway_y, sway_x = 26 * _clouds(rng, shape, 34.0), 10 * _clouds(rng, shape, 40.0)
    straight = _clouds(rng, shape, (1.1, 12.0)) + 0.8 * _clouds(rng, shape, (2.8, 20.0))
    y, x = np.indices(shape, dtype=float)
    wavy = ndimage.map_coordinates(straight, [y + sway_y, x + sway_x], order=1, mode="wrap")
    slope_y, slope_x = np.gradient(y + sway_y)  # fibres run where this stays the same
    return _clouds_of(wavy), np.asarray(np.arctan2(-slope_x, slope_y))


def _stroma_nuclei(
    rng: np.random.Generator, labels: Labels, epithelium: NDArray[np.bool_], tilts: Floats, n: int
) -> None:
    """Slim nuclei between the glands, lying with the fibres, and some round lymphocytes; none touch."""
    taken = ndimage.binary_dilation((labels > 0) | epithelium, iterations=7)
    for _ in range(6 * n):
        point = rng.integers(6, 250, size=2)
        is_round = rng.random() < 0.4
        radii = (4.2, 4.6) if is_round else (2.8, rng.uniform(7.0, 9.5))
        tilt, outline = tilts[tuple(point)] + rng.normal(0, 0.15), rng.normal(size=4)
        if not taken[tuple(point)] and n > 0:
            _paint(labels, int(labels.max()) + 1, point.astype(float), radii, tilt, outline)
            taken |= ndimage.binary_dilation(labels == labels.max(), iterations=7)
            n -= 1


def _oblique_affine(shape: tuple[int, int, int]) -> Floats:
    """Voxel indices to world (RAS, mm): turned by 14 degrees about x, then 9 about z; its centre at (-4, 12, 7)."""
    a, b = np.deg2rad(14.0), np.deg2rad(9.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(VOLUME_SPACING_XYZ_MM)
    affine[:3, 3] = np.array([-4.0, 12.0, 7.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
