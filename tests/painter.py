"""A painter: strokes that depend only on a seed, and a program of its own that records them until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mambaseg.image import Image
from mambaseg.learn import ImageIdentity, Journal, identify

SHAPE = (700, 600)
Stroke = tuple[tuple[slice, slice], int]


def identity(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> ImageIdentity:
    """The identity of a small picture said to have `shape`; other seeds are other pictures."""
    return identify(Image.from_array(np.full(shape, seed, np.uint8)))


def stroke(seed: int, number: int, shape: tuple[int, int] = SHAPE) -> Stroke:
    """Box and label of a stroke; no two have the same label, so that each changes something."""
    random = np.random.default_rng((seed, number))
    sides = random.integers(1, 40, 2)
    start = [int(random.integers(0, extent - side)) for extent, side in zip(shape, sides, strict=True)]
    rows, columns = (slice(first, first + int(side)) for first, side in zip(start, sides, strict=True))
    return (rows, columns), 1 + number


def painted(seed: int, n_strokes: int) -> np.ndarray:
    """The labels after so many strokes."""
    labels = np.zeros(SHAPE, np.int32)
    for number in range(n_strokes):
        box, value = stroke(seed, number)
        labels[box] = value
    return labels


def say(what: object) -> None:
    """One line to the program that listens."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(path: str, seed: int, n_done: int) -> None:
    """Paint from stroke `n_done` on and say the number of strokes after each that was acknowledged."""
    view = Journal(Path(path)).view(identity(seed=seed))
    labels = painted(seed, n_done)
    say("ready")
    for number in range(n_done, 1_000_000):
        box, value = stroke(seed, number)
        labels[box] = value
        view.record(labels, "brush", box)
        say(number + 1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
