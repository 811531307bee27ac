"""The worker's tasks that learn: at once, from each stroke, and thoroughly, in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mambaseg._errors import UserError
from mambaseg.jobs.images import read_image
from mambaseg.progress import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from mambaseg.learn.examples import Example
    from mambaseg.learn.head import InstantSession
    from mambaseg.models import Model

__all__ = ["adapt", "finetune"]

_LABELS = "adapted_labels.npy"

_sessions: dict[str, InstantSession] = {}  # one at a time: a view's features take memory


def adapt(request: dict[str, Any], folder: Path, progress: ProgressCallback, model: Model) -> dict[str, Any]:
    """Instant learning: labels in view after what was corrected so far.

    Request: ``session``, any text that stays the same while a user works with a model; ``image`` (a name; with it, and
    optionally ``roi``, begins a new view), ``corrections`` and optionally ``labels`` (images' names; see
    `mambaseg.learn.Example`), ``forget`` true drops what was learned, ``save`` {"name": ..., "folder": optional} keeps
    it as an adapter. Result: ``labels``, a file in the folder with the labels in view, and ``model``, the folder saved.
    """
    from mambaseg.learn.head import InstantSession

    session = _sessions.get(request["session"])
    if request.get("image"):
        report(progress, Progress("Preparing", 0, 0))
        image = read_image(folder, request["image"])
        if session is None or session.model is not model:
            _sessions.clear()
            session = InstantSession(model, image, request.get("roi"), request.get("device") or "auto",
                                     request.get("precision") or "auto", progress=progress)
            _sessions[request["session"]] = session
        else:
            session.progress = progress
            session.look(image, request.get("roi"))
    if session is None:
        raise UserError("There is no view to learn in yet; show the image first.")
    labels = session.forget() if request.get("forget") else None
    if request.get("corrections"):
        labels = session.learn(*_planes(folder, request))
    np.save(folder / _LABELS, session.labels() if labels is None else labels, allow_pickle=False)
    result = {"labels": _LABELS}
    if request.get("save"):
        saved = session.save(request["save"]["name"], request["save"].get("folder"))
        result["model"] = str(saved.folder)
    return result


def finetune(request: dict[str, Any], folder: Path, progress: ProgressCallback, model: Model) -> dict[str, Any]:
    """Thorough learning, as `mambaseg.finetune` does it; the new model is saved, to be kept or not.

    Request: ``examples``, a list of {"image": ..., "corrections": ..., "labels": optional} with images' names;
    ``output``, the new model's folder; optional and as for `mambaseg.finetune`: ``minutes``, ``iterations``,
    ``new_classes``, ``hold_out``, ``parent_data``, ``work``, ``resume``, ``device``, ``precision``. Result: ``model``,
    that folder; ``judgement``, plain values with ``better`` and ``sentence``; ``notes``.
    """
    import mambaseg

    names = ("minutes", "iterations", "new_classes", "hold_out", "parent_data", "work", "resume", "device", "precision")
    options = {name: request[name] for name in names if request.get(name) is not None}
    tuned = mambaseg.finetune(model, [_example(folder, each) for each in request["examples"]], progress=progress,
                              **options)
    saved = tuned.save(request["output"])
    return {"model": str(saved.folder), "judgement": saved.scores["kept_aside"], "notes": list(tuned.notes)}


def _planes(folder: Path, request: dict[str, Any]) -> list[Any]:
    """Corrections, and labels where there are some."""
    return [np.asarray(read_image(folder, request[name]).data) for name in ("corrections", "labels")
            if request.get(name)]


def _example(folder: Path, request: dict[str, Any]) -> Example:
    from mambaseg.learn.examples import Example

    return Example(read_image(folder, request["image"]), *_planes(folder, request))
