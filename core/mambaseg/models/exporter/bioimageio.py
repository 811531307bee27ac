"""A package in the bioimage.io format: TorchScript weights, a description, and arrays to test it with.

TorchScript is a network as torch saw it run, so programs with torch alone run it: neither mambaseg nor numba is needed
there. It gives probabilities for one window; normalisation is described in the format's own words. The description is
written as JSON, which every YAML reader reads.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import mambaseg
from mambaseg.models._weights import sha256
from mambaseg.models.card import card
from mambaseg.models.exporter._refusal import check_outputs, refusal
from mambaseg.models.model import Model
from mambaseg.models.package import make_test_input
from mambaseg.nets.registry import ANY_SIZE
from mambaseg.prepare import prepare

__all__ = ["write_bioimageio"]

_FORMAT = "the bioimage.io format"
_FORMAT_VERSION = "0.5.3"
_LICENCES = ("0BSD", "AGPL-3.0-only", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0",
             "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "GPL-3.0-only",
             "GPL-3.0-or-later", "LGPL-3.0-only", "MIT", "MPL-2.0")  # SPDX names that models have; others go unsaid
_PAPERS = {
    "umamba-bot": ("U-Mamba", "10.48550/arXiv.2401.04722"), "umamba-enc": ("U-Mamba", "10.48550/arXiv.2401.04722"),
    "vmunet": ("VM-UNet", "10.48550/arXiv.2402.02491"), "vmunetv2": ("VM-UNetV2", "10.48550/arXiv.2403.09157"),
    "unetv2": ("U-Net v2", "10.48550/arXiv.2311.17791"), "nnunet": ("nnU-Net", "10.1038/s41592-020-01008-z"),
    "nnunet-resenc": ("nnU-Net's residual encoder", "10.48550/arXiv.2404.09556"),
    "segresnet": ("SegResNet", "10.48550/arXiv.1810.11654"), "unetr": ("UNETR", "10.48550/arXiv.2103.10504"),
    "swinunetr": ("Swin UNETR", "10.48550/arXiv.2201.01266")}
_UNITS = {"mm": "millimeter", "um": "micrometer"}
_TOLERANCE = 1e-4  # of probabilities, between the network and its TorchScript; torch's kernels round differently
_HALO_SHARE = 4  # of a window's side is not to be trusted at each end, as where windows overlap by half


class _Probabilities(nn.Module):
    """Networks, their logits averaged, with the last step to probabilities."""

    def __init__(self, networks: Sequence[nn.Module], kind: str) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.is_sigmoid = kind == "regions"

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channel, *S) -> (batch, output, *S), 0 to 1."""
        outputs = [network(images) for network in self.networks]
        logits = [output[0] if isinstance(output, list | tuple) else output for output in outputs]
        mean = torch.stack(logits).mean(0)
        return mean.sigmoid() if self.is_sigmoid else mean.softmax(1)


def write_bioimageio(model: Model, folder: Path) -> tuple[str, ...]:
    """Write a model into an empty folder.

    Returns
    -------
    Sentences for people

    Raises
    ------
    ModelError : the format cannot say what the model does, or the network does not survive as TorchScript
    """
    _check(model)
    preprocessing = _preprocessing(model)
    raw, prepared = _test_input(model)
    network = _Probabilities(model.build_all(), model.kind).eval()
    images = torch.from_numpy(prepared)
    with torch.inference_mode():
        expected = network(images).numpy()
    traced = _trace(model, network, images)
    content = io.BytesIO()  # torch's own writer ends the process where the disk is full
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which other programs still read
        torch.jit.save(traced, content)
    (folder / "weights.pt").write_bytes(content.getbuffer())
    np.save(folder / "test_input.npy", raw, allow_pickle=False)
    np.save(folder / "test_output.npy", expected, allow_pickle=False)
    notes = _notes(model)
    (folder / "README.md").write_text(_documentation(model, notes), encoding="utf-8")
    described = _description(model, folder, preprocessing)
    (folder / "rdf.yaml").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return notes


def _check(model: Model) -> None:
    """Refuse what the format has no words for."""
    if model.previous:
        raise refusal(_FORMAT, model, "is a cascade, in which one network's labels go to another; train a model of one "
                      "resolution")
    if any(member.group for member in model.members):
        raise refusal(_FORMAT, model, "averages the probabilities of different networks; export its models one by one")
    if any(model.plan.use_mask_for_norm):
        raise refusal(_FORMAT, model, "takes the statistics of its normalisation inside the nonzero region only")
    check_outputs(_FORMAT, model)


def _test_input(model: Model) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blobs with the values of an 8-bit picture (1, channel, *patch), and the same normalised."""
    plan = model.plan
    blobs = make_test_input(model, sides=plan.patch_size)
    raw = np.clip(np.round(128 + 40 * blobs), 0, 255).astype(np.float32)
    as_given = dataclasses.replace(plan, transpose=tuple(range(plan.ndim)), spacing=None, crop_to_nonzero=False,
                                   fit="windows")
    return raw, prepare(raw[0], None, as_given).array[None]


def _trace(model: Model, network: nn.Module, images: Tensor) -> Any:
    """The network as TorchScript, once it was seen to give the same, also for a larger window where it takes one."""
    larger = [] if model.network not in ANY_SIZE else [functional.pad(images, [
        part for step in reversed(_steps(model)) for part in (0, step)])]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # some sizes become constants; and TorchScript is old
        traced = torch.jit.trace(network, images, check_trace=False)
        difference = max(float((traced(window) - network(window)).abs().max()) for window in [images, *larger])
    if not difference <= _TOLERANCE:
        raise refusal(_FORMAT, model, f"gives other results as TorchScript (by {difference:.2g}); say so to its makers")
    return traced


def _steps(model: Model) -> list[int]:
    """What the sides of a window are multiples of, where the network takes more than one size."""
    return [math.prod(strides) for strides in zip(*model.plan.strides, strict=True)]


def _preprocessing(model: Model) -> list[dict[str, Any]]:
    """The plan's normalisation in the format's words."""
    schemes = set(model.plan.normalisation)
    if len(schemes) > 1:
        raise refusal(_FORMAT, model, f"normalises its channels in different ways ({', '.join(sorted(schemes))})")
    alone = {"axes": list(_space(model))}  # each channel by its own statistics
    made: dict[str, list[dict[str, Any]]] = {
        "zscore": [_step("zero_mean_unit_variance", **alone, eps=1e-8)],
        "percentile": [_step("scale_range", **alone, min_percentile=1.0, max_percentile=99.8, eps=1e-8)],
        "rescale_to_0_1": [_step("scale_range", **alone, eps=1e-8)],
        "minmax_255": [_step("scale_range", eps=1e-8), _step("scale_linear", gain=255.0)],
        "rgb_to_0_1": [_step("scale_linear", gain=1 / 255)],
        "imagenet": [_step("scale_linear", gain=1 / 255),
                     _step("fixed_zero_mean_unit_variance", axis="channel", mean=[0.485, 0.456, 0.406],
                           std=[0.229, 0.224, 0.225])],
        "nonorm": []}
    if schemes == {"ct"}:
        return _window(model)
    return [_step("ensure_dtype", dtype="float32"), *made[schemes.pop()], _step("ensure_dtype", dtype="float32")]


def _window(model: Model) -> list[dict[str, Any]]:
    """A CT window, alike for all channels, because the format clips them alike."""
    windows = [tuple(entry[key] for key in ("percentile_00_5", "percentile_99_5", "mean", "std"))
               for entry in model.plan.intensities]
    if len(set(windows)) != 1:
        raise refusal(_FORMAT, model, "clips its channels to different ranges")
    low, high, mean, std = windows[0]
    return [_step("ensure_dtype", dtype="float32"), _step("clip", min=low, max=high),
            _step("fixed_zero_mean_unit_variance", mean=mean, std=std), _step("ensure_dtype", dtype="float32")]


def _step(name: str, **settings: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": settings}


def _space(model: Model) -> tuple[str, ...]:
    """Names of the network's axes."""
    names = "zyx"[3 - len(model.plan.transpose):]
    return tuple(names[axis] for axis in model.plan.transpose)[-model.plan.ndim:]


def _description(model: Model, folder: Path, preprocessing: list[dict[str, Any]]) -> dict[str, Any]:
    """What `rdf.yaml` says."""
    names = (("background", "interior", "boundary") if model.kind == "instances"
             else model.classes[1:] if model.kind == "regions" else model.classes)
    paper, doi = _PAPERS[model.network]
    title = re.sub(r"[^A-Za-z0-9_+\- ()]", " ", model.title).strip()[:128]
    channel = {"type": "channel", "id": "channel"}
    return {
        "type": "model", "format_version": _FORMAT_VERSION, "name": title if len(title) >= 5 else f"Model {title}",
        "description": model.description[:1024], "authors": _authors(model), "documentation": "README.md",
        "cite": [{"text": f"Network: {paper}", "doi": doi}],
        **({"license": model.licence} if model.licence in _LICENCES else {}),
        "tags": [model.network, "segmentation", f"{model.plan.ndim}d", "pytorch"],
        "inputs": [{
            "id": "image", "description": "The image as it was taken", "test_tensor": _file(folder / "test_input.npy"),
            "axes": [{"type": "batch"}, channel | {"channel_names": list(model.channels)},
                     *(axis | size for axis, size in zip(_axes(model), _input_sizes(model), strict=True))],
            "data": {"type": "float32"}, "preprocessing": preprocessing}],
        "outputs": [{
            "id": "probabilities", "description": f"Probabilities of {model.kind}",
            "test_tensor": _file(folder / "test_output.npy"),
            "axes": [{"type": "batch"}, channel | {"channel_names": list(names)},
                     *(axis | size for axis, size in zip(_axes(model), _output_sizes(model), strict=True))],
            "data": {"type": "float32", "range": [0.0, 1.0]}}],
        "weights": {"torchscript": _file(folder / "weights.pt") | {
            "pytorch_version": torch.__version__.partition("+")[0]}},
        "config": {"mambaseg": {"version": mambaseg.__version__, "model": model.name, "checksum": model.checksum}}}


def _input_sizes(model: Model) -> list[dict[str, Any]]:
    """Sides that the network takes: the patch, and of some networks more."""
    sides = model.plan.patch_size
    if model.network not in ANY_SIZE:
        return [{"size": side} for side in sides]
    return [{"size": {"min": side, "step": step}} for side, step in zip(sides, _steps(model), strict=True)]


def _output_sizes(model: Model) -> list[dict[str, Any]]:
    """Sides of the output, and what of it is to be cut off.

    Programs enlarge the input by that, so only networks of any size can have it.
    """
    names = _space(model)
    sizes: list[dict[str, Any]] = [{"size": {"tensor_id": "image", "axis_id": name}} for name in names]
    if model.network not in ANY_SIZE:
        return sizes
    return [size | {"halo": max(1, side // _HALO_SHARE // step) * step}
            for size, side, step in zip(sizes, model.plan.patch_size, _steps(model), strict=True)]


def _axes(model: Model) -> list[dict[str, Any]]:
    """The axes of space, with the voxel size that the network works at where it has one."""
    names, spacing = _space(model), model.plan.spacing
    if spacing is None:
        return [{"type": "space", "id": name} for name in names]
    return [{"type": "space", "id": name, "unit": _UNITS[model.plan.unit], "scale": size}
            for name, size in zip(names, spacing, strict=True)]


def _authors(model: Model) -> list[dict[str, str]]:
    """Who is named as the model's maker; else the program."""
    named = model.training.get("authors")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list | tuple) else []
    return [{"name": re.sub(r"[/\\]", " ", name)} for name in names] or [{"name": "mambaseg"}]


def _file(path: Path) -> dict[str, str]:
    return {"source": path.name, "sha256": sha256(path)}


def _documentation(model: Model, notes: Sequence[str]) -> str:
    """The model's card, and what to know in other programs."""
    lines = ["", "## In other programs", "", *(f"- {note}" for note in notes), "", "## Validation", "",
             "Compare with labels of your own images that the model has not seen: mambaseg evaluate gives Dice, F1 "
             "and distances with intervals. Held-out scores, where there are any, are above.", ""]
    return card(model) + "\n".join(lines)


def _notes(model: Model) -> tuple[str, ...]:
    """What the user of the package should know."""
    plan = model.plan
    sides = " x ".join(map(str, plan.patch_size)) + (" or more" if model.network in ANY_SIZE else "")
    spacing = " x ".join(f"{size:g}" for size in plan.spacing or ())
    notes = {
        f"The weights are TorchScript and take windows of {sides}; mambaseg is not needed to run them.": True,
        f"The network works at a voxel size of {spacing} {plan.unit}: bring images to it first, and the result back.":
            plan.spacing is not None,
        f"Bring whole images to {sides} first, and the result back; the network was not trained on windows.":
            plan.fit != "windows",
        "Cut away a rim of zeros first, as in training.": plan.crop_to_nonzero,
        "The probabilities are those of interior and boundary; objects are numbered only by mambaseg.":
            model.kind == "instances",
        "mambaseg keeps only the largest piece of some classes; other programs keep all.": bool(model.keep_largest),
    }
    return tuple(note for note, is_so in notes.items() if is_so)
