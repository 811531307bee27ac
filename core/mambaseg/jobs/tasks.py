"""What a worker can do, by name. Each task runs in the child process; torch comes only when one is called.

A task takes the request (plain values), the job's folder and a progress callback, whose `Cancelled` it lets through,
and returns plain values. Requests name models as the shell does and images by what `write_image` returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mambaseg.jobs.images import read_image
from mambaseg.jobs.results import read_probabilities, write_result
from mambaseg.progress import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from mambaseg.models import Model

__all__ = ["TASKS"]

Task = Callable[[dict[str, Any], Path, ProgressCallback], dict[str, Any]]

_N_MODELS_KEPT = 2

_models: dict[str, Model] = {}  # by checksums, the one used last at the end


def warm(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Load torch and compile the scan, so that the first segmentation need not.

    Request: ``model`` (optional) is loaded too.
    """
    report(progress, Progress("Preparing", 0, 0))
    _start_engine()
    from mambaseg.ops import warm_up

    warm_up(background=False, training=False)()
    if request.get("model"):
        report(progress, Progress("Preparing", 0, 0))
        for stage in _model(request["model"]).stages:
            _ = stage.built_all
    return {}


def segment(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Labels of an image, as `mambaseg.segment` gives them.

    Request: ``model`` and ``image``; optional and as for `mambaseg.segment`: ``device``, ``precision``, ``tta``,
    ``roi``, ``focus``, ``keep_probabilities``, ``mask`` (an image's name; inside where it is not 0); ``preview`` false
    leaves the previews out. Result: for `mambaseg.jobs.read_result`.
    """
    report(progress, Progress("Preparing", 0, 0))
    _start_engine()
    import mambaseg

    names = ("device", "precision", "tta", "roi", "focus", "keep_probabilities")
    options = {name: request[name] for name in names if request.get(name) is not None}
    if request.get("mask"):
        options["mask"] = np.asarray(read_image(folder, request["mask"]).data) != 0
    result = mambaseg.segment(read_image(folder, request["image"]), _model(request["model"]), progress=progress,
                              preview=bool(request.get("preview", True)), **options)
    return write_result(folder, result)


def estimate(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """What a segmentation will cost, as `mambaseg.estimate` says.

    Request: as for ``segment``, of which ``focus``, ``keep_probabilities``, ``mask`` and ``preview`` do not matter.
    Result: the fields of `mambaseg.Estimate`.
    """
    report(progress, Progress("Preparing", 0, 0))
    _start_engine()
    import mambaseg

    options = {name: request[name] for name in ("device", "precision", "tta", "roi") if request.get(name) is not None}
    return asdict(mambaseg.estimate(read_image(folder, request["image"]), _model(request["model"]), **options))


def decode(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Objects again, from the probabilities that a job of the task ``segment`` kept in the same folder.

    Request: ``model`` and ``image`` as there; ``decoder``: settings of `mambaseg.instances.Decoder` that differ from
    the model's. Result: for `mambaseg.jobs.read_result`.
    """
    report(progress, Progress("Finding objects", 0, 0))
    from mambaseg.segmentation.run import decode_again

    probabilities = read_probabilities(folder)
    result = decode_again(read_image(folder, request["image"]), _model(request["model"]), probabilities,
                          request.get("decoder") or {})
    return write_result(folder, result, "decoded_")


def import_model(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """A model package out of an nnU-Net model folder or a checkpoint, as ``mambaseg import`` makes it.

    Request: ``source``, and ``output``: the package's folder. Result: ``model``, that folder again.
    """
    report(progress, Progress("Importing", 0, 0))
    from mambaseg.models.importer import import_checkpoint

    import_checkpoint(request["source"], request["output"])
    return {"model": request["output"]}


def adapt(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Learn at once from corrections, as `mambaseg.jobs.learning.adapt` says; ``model`` as for ``segment``."""
    _start_engine()
    from mambaseg.jobs import learning

    return learning.adapt(request, folder, progress, _model(request["model"]))


def finetune(request: dict[str, Any], folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Learn thoroughly, as `mambaseg.jobs.learning.finetune` says; ``model`` as for ``segment``."""
    report(progress, Progress("Preparing", 0, 0))
    _start_engine()
    from mambaseg.jobs import learning

    return learning.finetune(request, folder, progress, _model(request["model"]))


def _start_engine() -> None:
    """What a process that computes sets up first; nothing the second time."""
    from mambaseg.machine import keep_freed_memory

    keep_freed_memory()


def _model(name_or_path: str) -> Model:
    """A model, kept from an earlier job if it has not changed since."""
    from mambaseg.models import load_model, read_model, resolve

    folder = resolve(name_or_path)
    described = read_model(folder) if (folder / "model.json").exists() else load_model(name_or_path)
    adapters = (adapter.checksum for adapter in described.adapters if adapter.is_on)
    key = " ".join((str(folder), described.checksum, described.previous,
                    *(member.checksum for member in described.members), *adapters))
    model = _models.pop(key, None) or load_model(name_or_path)
    _models[key] = model
    for old in list(_models)[:-_N_MODELS_KEPT]:
        del _models[old]
    return model


TASKS: dict[str, Task] = {"warm": warm, "segment": segment, "estimate": estimate, "decode": decode,
                          "import": import_model, "adapt": adapt, "finetune": finetune}
