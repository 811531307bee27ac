"""Pictures of cases with two outlines, the truth and the prediction, that can be switched on and off."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage
from skimage.segmentation import find_boundaries

from mambaseg.image import Image
from mambaseg.overlay import as_rgb, shown_slices

__all__ = ["Shown", "figures"]

TRUTH, PREDICTION = (86, 180, 233), (240, 140, 0)  # blue under orange: apart for colour-blind people, too
_SIDE = 960  # of a picture in pixels: as wide as the page when it is clicked, else a third of that
_MOST_ENLARGED = 4.0
_N_SLICES = 3  # of a volume, side by side
_GAP_PX = 8
_QUALITY = 82

Labels = NDArray[Any]


@dataclass(frozen=True)
class Shown:
    """A case to show.

    Parameters
    ----------
    title : why it is shown ("Worst")
    words : what it is and how it scores
    truth, prediction : labels (*spatial); the truth may be negative where nobody looked
    image : the picture; None: outlines on plain ground
    """

    title: str
    words: str
    truth: Labels
    prediction: Labels
    image: Image | None = None


def figures(cases: Sequence[Shown], truth: str = "truth", prediction: str = "prediction") -> str:
    """The cases beside each other, with switches for the two outlines.

    Parameters
    ----------
    truth, prediction : what the outlines are called

    Returns
    -------
    HTML; "" where there is no case
    """
    if not cases:
        return ""
    switches = "".join(
        f'<label><input type="checkbox" id="show-{key}" checked><span class="key" style="--of:rgb{colour}"></span>'
        f"{escape(words)}</label>" for key, words, colour in (("truth", truth, TRUTH),
                                                              ("prediction", prediction, PREDICTION)))
    return (f'<div class="switches">{switches}</div><div class="cases">' + "".join(map(_figure, cases)) + "</div>")


def _figure(case: Shown) -> str:
    """One case: the picture, and over it the outlines as layers of their own."""
    picture, truth, prediction = _sheet(case)
    layers = (("", imagecodecs.webp_encode(picture, level=_QUALITY), case.words),
              ("truth", _outline(truth, TRUTH, 2), ""), ("prediction", _outline(prediction, PREDICTION, 1), ""))
    images = "".join(f'<img class="{name}" alt="{escape(words)}" src="data:image/webp;base64,'
                     f'{base64.b64encode(bytes(data)).decode()}">' for name, data, words in layers)
    return (f'<figure><button class="layers" title="Larger or smaller">{images}</button>'
            f"<figcaption><b>{escape(case.title)}</b> {escape(case.words)}</figcaption></figure>")


def _sheet(case: Shown) -> tuple[NDArray[np.uint8], Labels, Labels]:
    """Picture (row, column, 3) and both labels at the size of the page; slices of a volume side by side."""
    truth, prediction = np.maximum(case.truth, 0), case.prediction
    frame = None if case.image is None else next(case.image.frames())
    spacing = case.image.grid.spacing[-2:] if case.image is not None else (1.0, 1.0)
    if truth.ndim == 2:
        planes = [(None if frame is None or case.image is None else as_rgb(frame, case.image), truth, prediction)]
    else:
        chosen = shown_slices((truth > 0) | (prediction > 0), _N_SLICES)
        stack = None if frame is None or case.image is None else as_rgb(frame[:, chosen], case.image)
        planes = [(None if stack is None else stack[at], truth[index], prediction[index])
                  for at, index in enumerate(chosen)]
    width = _SIDE if len(planes) == 1 else _SIDE // 2
    sized = [_sized(picture, labels, spacing, width) for picture, *labels in planes]
    pictures, truths, predictions = zip(*sized, strict=True)
    return _side_by_side(pictures), _side_by_side(truths), _side_by_side(predictions)


def _sized(picture: NDArray[np.uint8] | None, labels: Sequence[Labels], spacing: Sequence[float],
           side: int) -> list[NDArray[Any]]:
    """A picture and its labels at `side` pixels along the longer axis, with square pixels."""
    extents = [extent * step / min(spacing) for extent, step in zip(labels[0].shape, spacing, strict=True)]
    factor = min(side / max(extents), _MOST_ENLARGED)
    rows, columns = (max(1, round(extent * factor)) for extent in extents)
    index = np.ix_(*((np.arange(n) * extent // n) for n, extent in zip((rows, columns), labels[0].shape, strict=True)))
    if picture is None:
        shown = np.full((rows, columns, 3), 40, np.uint8)
    else:
        way = Pillow.Resampling.BOX if factor < 1 else Pillow.Resampling.BICUBIC
        shown = np.asarray(Pillow.fromarray(picture).resize((columns, rows), way))
    return [shown, *(each[index] for each in labels)]


def _side_by_side(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of one height in a row, with a dark gap."""
    gap = np.zeros((parts[0].shape[0], _GAP_PX, *parts[0].shape[2:]), parts[0].dtype)
    return np.concatenate([piece for part in parts for piece in (gap, part)][1:], axis=1)


def _outline(labels: Labels, colour: tuple[int, int, int], reach_px: int) -> bytes:
    """The borders of all labels, some pixels to both sides, as a transparent picture."""
    edge = find_boundaries(labels, connectivity=1, mode="inner")
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[ndimage.binary_dilation(edge, iterations=reach_px)] = (*colour, 255)
    return bytes(imagecodecs.webp_encode(layer, lossless=True))
