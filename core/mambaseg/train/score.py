"""What a model scores on its held-out cases, measured the way a user would run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mambaseg.instances import keep_largest_component
from mambaseg.metrics import evaluate
from mambaseg.metrics.summary import Kind
from mambaseg.models import Model
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.segmentation import segment
from mambaseg.train.components import Groups, largest_components
from mambaseg.train.dataset import Dataset

__all__ = ["judge", "score_model"]

Labels = NDArray[Any]


def score_model(model: Model, data: Dataset, device: str = "auto",
                progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Scores over the validation cases, as `model.json` keeps them.

    Parameters
    ----------
    model : saved; it goes through `segment` like any other
    data : its validation cases are segmented one after the other
    progress : called before each case

    Returns
    -------
    ``n_images`` and ``conventions``; for instances F1, mean AP and Dice as mean over the images; for classes Dice by
    class name and their mean (``foreground_mean``). Empty where nothing was held out
    """
    truths, predictions = _segmented(model, data, device, progress)
    return _scores(truths, predictions, data)


def judge(model: Model, data: Dataset, device: str = "auto",
          progress: ProgressCallback | None = None) -> tuple[dict[str, Any], Groups]:
    """Scores of a new model, and classes of which only the largest piece should be kept; arguments as `score_model`.

    Where keeping the largest pieces helps, the scores are those with it, and `foreground_mean_all_pieces` is that
    without. The choice was made on the same cases, so it flatters a little, as in nnU-Net.
    """
    truths, predictions = _segmented(model, data, device, progress)
    scores = _scores(truths, predictions, data)
    groups = (largest_components(truths, predictions, len(data.classes), data.ignore_class)
              if data.kind == "classes" else ())
    if not groups:
        return scores, ()
    for group in groups:
        predictions = [keep_largest_component(labels, group) for labels in predictions]
    return _scores(truths, predictions, data) | {"foreground_mean_all_pieces": scores["foreground_mean"]}, groups


def _segmented(model: Model, data: Dataset, device: str,
               progress: ProgressCallback | None) -> tuple[list[Labels], list[Labels]]:
    """True and predicted labels of the validation cases."""
    truths, predictions = [], []
    for index, case in enumerate(data.validation):
        report(progress, Progress("Scoring", index, len(data.validation), case.name))
        image, labels = case.read()
        truths.append(data.to_classes(labels))
        predictions.append(segment(image, model, device=device).labels)
    return truths, predictions


def _scores(truths: Sequence[Labels], predictions: Sequence[Labels], data: Dataset) -> dict[str, Any]:
    """What `score_model` gives."""
    if not truths:
        return {}
    regions = dict(zip(data.classes[1:], data.regions, strict=True)) if data.regions else None
    kind: Kind = "instances" if data.instances else "classes"
    found = evaluate(list(truths), list(predictions), kind, regions=regions, ignore_label=data.ignore_class)
    scores: dict[str, Any] = {"n_images": len(truths)}
    kept: tuple[str, ...]
    if data.instances:
        scores |= {key: _rounded(found["mean"][key]) for key in ("f1@0.5", "mean_ap", "dice")}
        kept = ("f1@0.5", "ap", "mean_ap", "dice", "mean")
    else:
        by_class = found["mean"]["classes"]
        keys = {name: name if data.regions else str(value) for value, name in enumerate(data.classes) if value}
        scores["dice"] = {name: _rounded(by_class[key]["dice"]) for name, key in keys.items() if key in by_class}
        scores["foreground_mean"] = _rounded(found["foreground_mean"].get("dice"))
        kept = ("dice", "mean", "foreground_mean")
    return scores | {"conventions": {key: found["conventions"][key] for key in kept}}


def _rounded(score: float | None) -> float | None:
    """Four digits; None where the score is not defined."""
    return None if score is None else round(score, 4)
