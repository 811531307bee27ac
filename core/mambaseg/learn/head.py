"""Instant learning: what the network answers and sees early on is kept for the view; only a linear map of it is fitted.

The map is applied after the windows are blended, so a fit changes the view without running the network again. Saved, it
is applied window by window (`mambaseg.models.taps`), which differs by what the blur takes in at a window's edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambaseg._errors import ModelError
from mambaseg.image import Image
from mambaseg.instances import INSTANCE_TARGETS, Decoder
from mambaseg.learn.examples import Example, as_examples, first_frame, prepare_image, sparse_labels, to_grid
from mambaseg.learn.logistic import Sample, fit_logistic
from mambaseg.models import Model
from mambaseg.models.adapters import read_steps, save_adapter
from mambaseg.models.domains import is_new, representatives, signature
from mambaseg.models.taps import Watch, mix, tap_width
from mambaseg.orientation import Turn, turn_to
from mambaseg.predict.blend import logits_to_probabilities
from mambaseg.predict.run import Box, predict_logits, prepared_box, roi_bounds, to_frame
from mambaseg.prepare import Prepared
from mambaseg.progress import ProgressCallback
from mambaseg.segmentation.match import match_channels, match_domain
from mambaseg.segmentation.run import labels_from
from mambaseg.train.sample import UNLABELLED

__all__ = ["InstantSession"]

_VOXELS_A_CLASS = 4000  # of a view's corrections that a fit looks at
_SIGMA_PER_RADIUS = 0.2  # of an object's radius: width of the blur; chosen by the study in docs/learning.md
_VOXELS_ELSEWHERE = 6000  # of a view that hold the fit near the former answer


class _Trunk(nn.Module):
    """A network's logits, the features that an adapter may use, and its input, at full resolution."""

    def __init__(self, network: nn.Module, model: Model) -> None:
        super().__init__()
        self.network = network
        self.watch = Watch(network, model)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, *S) -> (batch, output + width, *S)."""
        output = self.network(x)
        logits = output[0] if isinstance(output, list | tuple) else output
        return torch.cat([logits, *self.watch.take(x, logits)], 1)


@dataclass
class _View:
    """A part of an image with its logits and features, (output + width, *box of the prepared grid), and signature.

    `prepared`, `bounds` and `box` are of the image after the turn.
    """

    image: Image
    turn: Turn
    prepared: Prepared
    spacing: tuple[float, ...] | None
    bounds: tuple[tuple[int, int], ...]
    box: tuple[tuple[int, int], ...]
    features: Tensor
    kind: tuple[float, ...]


@dataclass
class InstantSession:
    """Learns from corrections while the user looks on; lives as long as the window does.

    Parameters
    ----------
    model : saved; its first network is used
    image, roi : the first view; see `look`
    device, precision : as for `mambaseg.segment`
    hold : how firmly answers stay where nothing was corrected; larger moves less; see `fit_logistic`
    progress : called for each window that features are computed of

    Raises
    ------
    ModelError : the model finds regions
    """

    model: Model
    image: Image
    roi: Box | None = None
    device: str = "auto"
    precision: str = "auto"
    hold: float = 0.6
    progress: ProgressCallback | None = None
    _base: Model | None = field(default=None, init=False)
    _weights: Tensor = field(init=False)
    _sigma: float = field(default=0.0, init=False)
    _samples: dict[int, Sample] = field(default_factory=dict, init=False)
    _taught: dict[int, tuple[float, ...]] = field(default_factory=dict, init=False)
    _n_views: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Compute the first view's features."""
        self.model.refuse_cascade("learn from corrections")
        if self.model.kind == "regions":
            raise ModelError(f"{self.model.title} finds regions that may overlap, which cannot be learned at once; "
                             "choose a model of classes or of objects.")
        self.look(self.image, self.roi)

    def _begin(self, base: Model) -> None:
        """Start from what answers for this kind of picture; nothing learned for another kind is of use to it."""
        self._base = base
        self._trunk = _Trunk(base.built, base)
        width = tap_width(base.built, base)
        self._prior = torch.eye(base.n_outputs, base.n_outputs + width + 1, dtype=torch.float64)
        self._forget()

    def look(self, image: Image, roi: Box | None = None) -> NDArray[Any]:
        """Another view; what was learned stays, unless the image is of a kind that the model answers otherwise for.

        Parameters
        ----------
        image : one time point
        roi : (start, stop) or slice per spatial axis in voxels; None: the whole image

        Returns
        -------
        Labels in view, (*roi)
        """
        base = match_domain(match_channels(image, self.model, []), self.model, [])
        if base is not self._base:
            self._begin(base)
        prepared, spacing = prepare_image(image, self.model)
        shape = image.grid.shape
        turn = turn_to(self.model.plan.orientation, image.grid)
        bounds = turn.box(roi_bounds(roi if roi is not None else [(0, size) for size in shape], shape), shape)
        box = prepared_box(bounds, prepared)
        width = self._prior.shape[1] - 1
        if all(stop > start for start, stop in box):
            found = predict_logits([self._trunk], prepared.array, self.model.plan, n_classes=width, box=box, crop=True,
                                   device=self.device, precision=self.precision, progress=self.progress)
        else:
            found = np.zeros((width, *(stop - start for start, stop in box)), np.float32)
        kind = signature(first_frame(image, self.model))
        self._view = _View(image, turn, prepared, spacing, bounds, box, torch.from_numpy(found), kind)
        self._n_views += 1
        return self.labels()

    def learn(self, corrections: NDArray[Any], labels: NDArray[Any] | None = None) -> NDArray[Any]:
        """Labels in view after learning from all corrections so far, those of earlier views included.

        Parameters
        ----------
        corrections, labels : of the whole image in view, as in `mambaseg.learn.examples.Example`; they replace what was
            given for this view before

        Raises
        ------
        DatasetError : see `mambaseg.learn.examples.as_examples`
        """
        example, = as_examples([Example(self._view.image, corrections, labels)], self.model)
        sample = self._sample(example)
        if sample is not None:
            self._samples[self._n_views] = sample
            self._taught[self._n_views] = self._view.kind
        if self._samples:
            self._weights = fit_logistic(list(self._samples.values()), self._prior, self._weights, self.hold)
            self._sigma = _SIGMA_PER_RADIUS * _median_radius([*self._samples.values()])
        return self.labels()

    def forget(self) -> NDArray[Any]:
        """Labels in view as the model itself gives them; all that was learned is dropped."""
        self._forget()
        return self.labels()

    def _forget(self) -> None:
        self._samples.clear()
        self._taught.clear()
        self._weights = self._prior.clone()
        self._sigma = 0.0

    def probabilities(self) -> NDArray[np.float32]:
        """(output, *roi), as the network would give them with the learned layer."""
        return np.ascontiguousarray(self._view.turn.back(self._turned_probabilities()))

    def _turned_probabilities(self) -> NDArray[np.float32]:
        """`probabilities` with the axes that the network sees."""
        view = self._view
        is_stack = view.features.ndim - 1 > self.model.plan.ndim  # a volume that a 2-D model takes slice by slice
        batch = view.features.movedim(1, 0) if is_stack else view.features[None]
        mixed = mix(batch, self._weights, self._sigma) if batch.numel() else batch[:, : len(self._weights)]
        logits = (mixed.movedim(0, 1) if is_stack else mixed[0]).contiguous().numpy()
        prepared = view.prepared
        if prepared.shape_after_crop == prepared.array.shape[1:] == prepared.shape_before_crop:  # one voxel is one
            back = np.argsort(prepared.transpose)
            return logits_to_probabilities(np.ascontiguousarray(logits.transpose(0, *(1 + back))), self.model.kind)
        whole = np.zeros((len(logits), *prepared.array.shape[1:]), np.float32)
        whole[(slice(None), *(slice(*side) for side in view.box))] = logits
        roi = tuple(slice(*side) for side in view.bounds)
        return np.ascontiguousarray(to_frame(whole, prepared, self.model.kind)[(slice(None), *roi)])

    def labels(self) -> NDArray[Any]:
        """Labels in view, (*roi): classes, or objects numbered within the view."""
        return labels_from(self.probabilities(), self._base or self.model, self._view.spacing)

    def save(self, name: str, folder: Any = None) -> Model:
        """Keep what was learned as a named adapter; see `mambaseg.models.adapters.save_adapter`.

        It is used for pictures like those that were corrected here. One of this name that was made for another kind of
        picture stays, and the new one gets a number.
        """
        base = self._base or self.model
        steps: list[dict[str, Tensor]] = [{"weights": self._weights, "sigma": torch.tensor([self._sigma])}]
        taught = [*self._taught.values()]
        known = {adapter.name: adapter for adapter in self.model.adapters}
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        name = next(each for each in names if each not in known or known[each] in base.adapters)
        if name in known and known[name].is_on:  # this session began with it, and goes on from there
            steps = read_steps(self.model, known[name]) + steps
            taught += known[name].taught
        record = {"n_views": len(self._samples),
                  "n_voxels": round(sum(float(sample.weight.sum()) for sample in self._samples.values()))}
        network = "" if base.weights_file == self.model.weights_file else base.checksum
        return save_adapter(self.model, name, steps, record, folder, network, representatives(taught))

    def _sample(self, example: Example) -> Sample | None:
        """Features and targets of the corrected voxels in view, and of some others; None where none is in view."""
        view = self._view
        target = to_grid(sparse_labels(example, self.model.kind), view.prepared)
        target = target[tuple(slice(*side) for side in view.box)]
        known = target != UNLABELLED
        if not known.any():
            return None
        classes = np.maximum(target, 0)
        radii = np.zeros(0)
        if self.model.kind == "instances":
            radii = _radii(classes, self.model.plan.ndim)
            classes = INSTANCE_TARGETS[Decoder.from_json(self.model.decoder or {}).target].classes(classes)
        random = np.random.default_rng(0)
        flat, is_known = classes.ravel(), known.ravel()
        chosen = [_some(np.flatnonzero(is_known & (flat == value)), _VOXELS_A_CLASS, random)
                  for value in np.unique(flat[is_known])]
        at = np.concatenate(chosen)
        stands_for = np.bincount(flat[is_known])[flat[at]] / np.bincount(flat[at])[flat[at]]
        elsewhere = _some(np.flatnonzero(~is_known), _VOXELS_ELSEWHERE, random)
        features = view.features.flatten(1).T
        return Sample(_with_one(features[at]), torch.from_numpy(flat[at].astype(np.int64)),
                      torch.from_numpy(stands_for), _with_one(features[elsewhere]), torch.from_numpy(radii),
                      _is_known(view.kind, self.model))


def _median_radius(samples: Sequence[Sample]) -> float:
    """Of the objects of a new kind, voxels; in a known kind there are no specks to be mended."""
    radii = [sample.radii for sample in samples if not sample.is_known and len(sample.radii)]
    return float(torch.cat(radii).median()) if radii else 0.0


def _is_known(kind: tuple[float, ...], model: Model) -> bool:
    """Whether a picture is like those that a model was trained on, or taught; False where nobody says which."""
    known = (*model.trained_on, *(row for part in model.parts.values() for row in part.taught))
    return bool(known) and not is_new(kind, known)


def _radii(objects: NDArray[Any], ndim: int) -> NDArray[np.float64]:
    """Radius of the disc or ball of each object's size, voxels; for a 2-D model in a volume of its pieces in slices."""
    planes = objects if objects.ndim > ndim else objects[None]
    sizes = np.concatenate([np.unique(plane[plane > 0], return_counts=True)[1] for plane in planes])
    return np.asarray(np.sqrt(sizes / np.pi) if ndim == 2 else np.cbrt(0.75 * sizes / np.pi), np.float64)


def _some(indices: NDArray[np.intp], n_most: int, random: np.random.Generator) -> NDArray[np.intp]:
    return indices if len(indices) <= n_most else random.choice(indices, n_most, replace=False)


def _with_one(features: Tensor) -> Tensor:
    """Features (n, width) in double precision with a column of ones for the bias."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
