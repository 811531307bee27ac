"""What a model scores on its held-out cases, measured the way a user would run it."""

from __future__ import annotations

from typing import Any

from mambaseg.metrics import evaluate
from mambaseg.models import Model
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.segmentation import segment
from mambaseg.train.dataset import Dataset

__all__ = ["score_model"]


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
    truths, predictions = [], []
    for index, case in enumerate(data.validation):
        report(progress, Progress("Scoring", index, len(data.validation), case.name))
        image, labels = case.read()
        truths.append(data.to_classes(labels))
        predictions.append(segment(image, model, device=device).labels)
    if not truths:
        return {}
    found = evaluate(truths, predictions, kind="instances" if data.instances else "classes")
    scores: dict[str, Any] = {"n_images": len(truths)}
    kept: tuple[str, ...]
    if data.instances:
        scores |= {key: _rounded(found["mean"][key]) for key in ("f1@0.5", "mean_ap", "dice")}
        kept = ("f1@0.5", "ap", "mean_ap", "dice", "mean")
    else:
        by_class = found["mean"]["classes"]
        scores["dice"] = {name: _rounded(by_class[str(value)]["dice"])
                          for value, name in enumerate(data.classes) if value and str(value) in by_class}
        scores["foreground_mean"] = _rounded(found["foreground_mean"].get("dice"))
        kept = ("dice", "mean", "foreground_mean")
    return scores | {"conventions": {key: found["conventions"][key] for key in kept}}


def _rounded(score: float | None) -> float | None:
    """Four digits; None where the score is not defined."""
    return None if score is None else round(score, 4)
