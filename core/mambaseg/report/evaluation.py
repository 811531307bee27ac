"""The report of an evaluation: predictions of anybody's against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambaseg import io
from mambaseg.image import Image
from mambaseg.metrics import pair
from mambaseg.report.page import Page, Section, definitions, number
from mambaseg.report.pictures import Shown, figures
from mambaseg.report.scores import conventions, headline, mean_words, picked, spreads, table

__all__ = ["evaluation_page", "score_sections"]


def evaluation_page(scores: Mapping[str, Any], truth: Path, predictions: Path, images: Path | None,
                    settings: Mapping[str, Any]) -> Page:
    """What `mambaseg evaluate` found, as a page.

    Parameters
    ----------
    scores : from `mambaseg.evaluate` for the two folders
    truth, predictions : folders of labels
    images : folder of the pictures with the names of the truth, or nnU-Net's with ``_0000`` behind; None: the outlines
        are drawn on plain ground
    settings : what was asked for
    """
    cases = pair(truth, predictions)
    shown = []
    for word, index in picked(scores):
        case = cases[index]
        shown.append(Shown(f"{word}.", case_words(scores, index), case.truth, case.prediction,
                           _image(images, case.name, case.truth.shape)))
    n = len(scores["cases"])
    figure, words = mean_words(scores)
    return Page(f"Evaluation of {predictions.resolve().name}", f"{n} case{'s' * (n != 1)}, compared with "
                f"{truth.resolve().name}.", [(figure, words), (str(n), "cases"), *_pooled(scores)],
                [*score_sections(scores, shown), Section("Settings", definitions(settings))])


def score_sections(scores: Mapping[str, Any], shown: list[Shown], names: Mapping[str, str] | None = None,
                   ) -> list[Section]:
    """Spread, pictures, table and conventions; what a report of a training and one of an evaluation have in common."""
    return [Section("Spread over the cases", spreads(scores, names)),
            Section("Best, median and worst" if len(shown) > 2 else "Pictures", figures(shown)),
            Section("Every case", table(scores, names)),
            Section("What the scores mean", conventions(scores))]


def case_words(scores: Mapping[str, Any], index: int) -> str:
    """A case's name and its score."""
    case, name = scores["cases"][index], headline(scores)
    if "classes" not in case:
        return f"{case['case']}, {name} {number(case[name])}"
    values = [row[name] for row in case["classes"].values() if row.get(name) is not None]
    return f"{case['case']}, {name} {number(sum(values) / len(values))}"


def _pooled(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The score of all objects or pixels as one set, where there is one."""
    pooled = scores.get("pooled") or {}
    name = next((name for name in (headline(scores), "dsc", "miou") if name in pooled), None)
    return [] if name is None else [(number(pooled[name]), f"{name}, all cases as one set")]


def _image(folder: Path | None, name: str, shape: tuple[int, ...]) -> Image | None:
    """The picture of a case; None where there is none of that size."""
    if folder is None:
        return None
    for path in sorted(folder.iterdir()):
        stem = path.name[:len(path.name) - len(io.suffix_of(path))]
        if stem in (name, f"{name}_0000"):
            image = io.read(path)
            return image if image.grid.shape == shape and not image.has_time else None
    return None
