"""Instant learning: the features before the last layer are kept for the view, and only that layer is fitted again.

The last layer is a 1x1 convolution, so it may as well be applied after the windows are blended: a fit changes the view
without running the network again, and what is outside of the view is as if the network itself had been changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mambaseg._errors import ModelError
from mambaseg.image import Image
from mambaseg.instances import interior_and_boundary
from mambaseg.learn.examples import Example, as_examples, prepare_image, sparse_labels, to_grid
from mambaseg.learn.grow import last_layer
from mambaseg.learn.logistic import Sample, fit_logistic
from mambaseg.models import Model
from mambaseg.models.adapters import read_changes, save_adapter
from mambaseg.predict.blend import logits_to_probabilities
from mambaseg.predict.run import Box, predict_logits, prepared_box, roi_bounds, to_frame
from mambaseg.prepare import Prepared
from mambaseg.progress import ProgressCallback
from mambaseg.segmentation.run import labels_from
from mambaseg.train.sample import UNLABELLED

__all__ = ["InstantSession"]

_VOXELS_A_CLASS = 4000  # of a view's corrections that a fit looks at
_VOXELS_ELSEWHERE = 6000  # of a view that hold the fit near the former answer


class _Trunk(nn.Module):
    """A network without its last layer: what that layer is given, at full resolution."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        head = network.get_submodule(last_layer(network))
        if not isinstance(head, nn.Conv2d | nn.Conv3d) or head.bias is None:
            raise ModelError("The network ends in a layer that cannot be learned on its own; use a U-Mamba model.")
        self.prior = torch.cat([head.weight.detach().flatten(1), head.bias.detach()[:, None]], 1).cpu().double()
        self.head_shape = head.weight.shape
        self._seen: Tensor | None = None
        self._head = head

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, *S) -> features (batch, width, *S)."""
        hook = self._head.register_forward_pre_hook(self._look)
        try:
            self.network(x)
        finally:
            hook.remove()
        features = self._seen
        if features is None:
            raise ModelError("The network does not use its last layer, so it cannot be learned on its own.")
        self._seen = None
        if features.shape[2:] != x.shape[2:]:  # a network that enlarges its logits: linear, so features may go first
            features = functional.interpolate(features, size=x.shape[2:], mode="bilinear", align_corners=False)
        return features


@dataclass
class _View:
    """A part of an image with its features, (width, *box of the prepared grid)."""

    image: Image
    prepared: Prepared
    spacing: tuple[float, ...] | None
    bounds: tuple[tuple[int, int], ...]
    box: tuple[tuple[int, int], ...]
    features: Tensor


@dataclass
class InstantSession:
    """Learns from corrections while the user looks on; lives as long as the window does.

    Parameters
    ----------
    model : saved; its first network is used
    image, roi : the first view; see `look`
    device, precision : as for `mambaseg.segment`
    hold : how firmly answers stay where nothing was corrected; larger moves less
    progress : called for each window that features are computed of

    Raises
    ------
    ModelError : the network's last layer cannot be learned on its own, or the model finds regions
    """

    model: Model
    image: Image
    roi: Box | None = None
    device: str = "auto"
    precision: str = "auto"
    hold: float = 0.3
    progress: ProgressCallback | None = None
    _samples: dict[int, Sample] = field(default_factory=dict, init=False)
    _n_views: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Find the last layer and compute the first view's features."""
        if self.model.kind == "regions":
            raise ModelError(f"{self.model.title} finds regions that may overlap, which cannot be learned at once; "
                             "choose a model of classes or of objects.")
        network = self.model.built
        self._layer = last_layer(network)
        self._trunk = _Trunk(network)
        self._prior = self._trunk.prior
        self._weights = self._prior.clone()
        self.look(self.image, self.roi)

    def look(self, image: Image, roi: Box | None = None) -> NDArray[Any]:
        """Another view; what was learned stays.

        Parameters
        ----------
        image : one time point
        roi : (start, stop) or slice per spatial axis in voxels; None: the whole image

        Returns
        -------
        Labels in view, (*roi)
        """
        prepared, spacing = prepare_image(image, self.model)
        shape = image.grid.shape
        bounds = roi_bounds(roi if roi is not None else [(0, size) for size in shape], shape)
        box = prepared_box(bounds, prepared)
        width = self._prior.shape[1] - 1
        if all(stop > start for start, stop in box):
            found = predict_logits([self._trunk], prepared.array, self.model.plan, n_classes=width, box=box, crop=True,
                                   device=self.device, precision=self.precision, progress=self.progress)
        else:
            found = np.zeros((width, *(stop - start for start, stop in box)), np.float32)
        self._view = _View(image, prepared, spacing, bounds, box, torch.from_numpy(found))
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
        if self._samples:
            self._weights = fit_logistic(list(self._samples.values()), self._prior, self._weights, self.hold)
        return self.labels()

    def forget(self) -> NDArray[Any]:
        """Labels in view as the model itself gives them; all that was learned is dropped."""
        self._samples.clear()
        self._weights = self._prior.clone()
        return self.labels()

    def probabilities(self) -> NDArray[np.float32]:
        """(output, *roi), as the network would give them with the learned layer."""
        view = self._view
        weights = self._weights.float()
        flat = view.features.flatten(1)
        logits = torch.addmm(weights[:, -1:], weights[:, :-1], flat).reshape(-1, *view.features.shape[1:]).numpy()
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
        return labels_from(self.probabilities(), self.model, self._view.spacing)

    def save(self, name: str, folder: Any = None) -> Model:
        """Keep what was learned as a named adapter of the model; see `mambaseg.models.adapters.save_adapter`."""
        delta = (self._weights - self._prior).float()
        changes = {f"{self._layer}.weight": delta[:, :-1].reshape(self._trunk.head_shape),
                   f"{self._layer}.bias": delta[:, -1].clone()}
        for adapter in self.model.adapters:
            if adapter.name == name and adapter.is_on:  # this session began with it, and goes on from there
                earlier = read_changes(self.model, adapter)
                changes = {key: change + earlier[key] for key, change in changes.items()}
        record = {"n_views": len(self._samples),
                  "n_voxels": round(sum(float(sample.weight.sum()) for sample in self._samples.values()))}
        return save_adapter(self.model, name, changes, record, folder)

    def _sample(self, example: Example) -> Sample | None:
        """Features and targets of the corrected voxels in view, and of some others; None where none is in view."""
        view = self._view
        target = to_grid(sparse_labels(example, self.model.kind), view.prepared)
        target = target[tuple(slice(*side) for side in view.box)]
        known = target != UNLABELLED
        if not known.any():
            return None
        classes = np.maximum(target, 0)
        classes = interior_and_boundary(classes) if self.model.kind == "instances" else classes
        random = np.random.default_rng(0)
        flat, is_known = classes.ravel(), known.ravel()
        chosen = [_some(np.flatnonzero(is_known & (flat == value)), _VOXELS_A_CLASS, random)
                  for value in np.unique(flat[is_known])]
        at = np.concatenate(chosen)
        stands_for = np.bincount(flat[is_known])[flat[at]] / np.bincount(flat[at])[flat[at]]
        elsewhere = _some(np.flatnonzero(~is_known), _VOXELS_ELSEWHERE, random)
        features = view.features.flatten(1).T
        return Sample(_with_one(features[at]), torch.from_numpy(flat[at].astype(np.int64)),
                      torch.from_numpy(stands_for), _with_one(features[elsewhere]))


def _some(indices: NDArray[np.intp], n_most: int, random: np.random.Generator) -> NDArray[np.intp]:
    return indices if len(indices) <= n_most else random.choice(indices, n_most, replace=False)


def _with_one(features: Tensor) -> Tensor:
    """Features (n, width) in double precision with a column of ones for the bias."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
