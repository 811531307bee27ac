"""The report of a training, and of a fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mambaseg import io
from mambaseg.learn.examples import Example, source_name
from mambaseg.models import Model
from mambaseg.report.charts import curve, spread
from mambaseg.report.evaluation import case_words, score_sections
from mambaseg.report.page import Page, Section, definitions, number
from mambaseg.report.pictures import Shown, figures
from mambaseg.report.scores import mean_words, picked
from mambaseg.segmentation import segment
from mambaseg.train.validation import Validation
from mambaseg.words import duration

if TYPE_CHECKING:
    from mambaseg.learn.finetune import Tuned

__all__ = ["finetune_page", "training_page"]

_MOST_EXAMPLES = 3


def training_page(model: Model, validation: Validation | None) -> Page:
    """What a training led to, as a page.

    Parameters
    ----------
    model : as `mambaseg.train` returned it
    validation : what it found on the cases held out; None: there were none
    """
    training = model.training
    tiles = [(duration(training["seconds"]), f"of training, {training['iterations']:,} iterations"),
             (str(training["n_cases"]), "cases to learn from"), (str(training["n_held_out"]), "cases held out")]
    lead = f"{model.network}, {model.description[0].lower()}{model.description[1:]}"
    sections = [Section("Learning curves", _curves(training["history"]))]
    if validation is not None:
        tiles.insert(0, mean_words(validation.scores))
        names = {name if model.regions else str(value): name for value, name in enumerate(model.classes)}
        shown = [Shown(f"{word}.", case_words(validation.scores, index),
                       io.read_labels(validation.files[index].labels).data,
                       np.asarray(io.read_labels(validation.predictions[index]).data),
                       validation.files[index].read_image()) for word, index in picked(validation.scores)]
        sections += score_sections(validation.scores, shown, names)
    return Page(f"Training of {model.title}", lead, tiles, [*sections, *_configuration(model)])


def finetune_page(tuned: Tuned, saved: Model, examples: Sequence[Example]) -> Page:
    """What a fine-tuning led to, as a page.

    Parameters
    ----------
    tuned : as `mambaseg.finetune` returned it
    saved : its model, saved
    examples : what it learned from; up to three are shown
    """
    verdict = tuned.judgement
    tiles = [(_arrow(verdict.before.mean, verdict.after.mean), f"on {verdict.before.n_units} kept aside"),
             (duration(saved.training["seconds"]), f"of training, {saved.training['iterations']:,} iterations")]
    if verdict.forgetting is not None:
        tiles.append((_arrow(verdict.forgetting.before, verdict.forgetting.after), f"on {verdict.forgetting.on}"))
    units = {"before": [(unit.name, unit.before) for unit in tuned.units],
             "after": [(unit.name, unit.after) for unit in tuned.units]}
    shown = [_example(saved, example, index) for index, example in enumerate(examples[:_MOST_EXAMPLES])]
    notes = "".join(f"<p>{escape(note)}</p>" for note in tuned.notes)
    return Page(f"Learning of {saved.title}", verdict.sentence, tiles, [
        Section("Notes", notes), Section("Learning curves", _curves(tuned.history)),
        Section("What was kept aside, before and after", spread("Score", units, 0.0, 1.0)),
        Section("Corrections and the new model", figures(shown, "corrections")), *_configuration(saved)])


def _example(model: Model, example: Example, index: int) -> Shown:
    """An example with its corrections, 0 where nobody looked, and what the model finds there now."""
    found = segment(example.image, model).labels
    known = np.maximum(example.corrections.astype(np.int64) - 1, 0)
    return Shown(source_name(example, index), "", known, found, example.image)


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    """Loss, score of validation and learning rate over the iterations."""
    scored = [entry for entry in history if "score" in entry]
    best = max(scored, key=lambda entry: entry["score"], default=None)
    kept = "" if best is None else f"Best {number(best['score'])}, after {best['iteration']:,.0f} iterations; kept."
    charts = [
        curve("Loss of training", _course(history, "loss"), "iteration"),
        curve("Dice on held-out patches", _course(history, "score"), "iteration",
              None if best is None else (best["iteration"], best["score"]), kept),
        curve("Learning rate, in thousandths",
              [(x, 1000 * y) for x, y in _course(history, "rate")], "iteration")]
    return f'<div class="charts small">{"".join(charts)}</div>' if any(charts) else ""


def _course(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(entry["iteration"], entry[name]) for entry in history if name in entry]


def _arrow(before: float, after: float) -> str:
    return f"{before:.2f} → {after:.2f}" if math.isfinite(before) else "not judged"


def _configuration(model: Model) -> list[Section]:
    """How the network was made and trained."""
    training = {name.replace("_", " "): value for name, value in model.training.items() if name != "history"}
    facts = {"network": model.network, "kind": model.kind, "classes": list(model.classes),
             "channels": list(model.channels), "licence": model.licence, "parent": model.parent, **training}
    plan = {item.name.replace("_", " "): getattr(model.plan, item.name) for item in dataclasses.fields(model.plan)}
    return [Section("Configuration", definitions(facts)), Section("Plan", definitions(plan), is_folded=True),
            Section("Network", definitions(model.network_config), is_folded=True)]
