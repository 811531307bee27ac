"""What a report shows of scores: the spread over cases, the table, and which cases stand for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mambaseg.metrics.summary import is_count
from mambaseg.report.charts import spread
from mambaseg.report.page import definitions, number

__all__ = ["conventions", "headline", "picked", "spreads", "table"]

_SHOWN_COUNTS = {"n_truth": "in truth", "n_prediction": "in prediction"}  # objects, or voxels of a class
_LEFT_OUT = ("accuracy", "mae", "specificity")  # of which the background makes most: in the table, not as a chart
_DISTANCES = ("hd95", "assd")

Scores = Mapping[str, Any]
Names = Mapping[str, str]


def headline(scores: Scores) -> str:
    """The score that a report sorts by: F1 of objects, else Dice."""
    names = _names(scores)
    return next((name for name in names if name.startswith("f1")), "dice" if "dice" in names else names[0])


def picked(scores: Scores) -> list[tuple[str, int]]:
    """Best, median and worst case by `headline`, as (word, index of the case); fewer where there are fewer cases."""
    ranked = sorted((value, index) for index, case in enumerate(scores["cases"])
                    if not math.isnan(value := _overall(case, headline(scores))))
    if not ranked:
        return []
    places = {"Best": len(ranked) - 1, "Median": len(ranked) // 2, "Worst": 0}
    found: dict[int, str] = {}
    for word, place in places.items():
        found.setdefault(ranked[place][1], word)
    return [(word, index) for index, word in found.items()]


def spreads(scores: Scores, names: Names | None = None) -> str:
    """Box plots: for classes one chart a score with a row a class, else one chart with a row a score.

    Parameters
    ----------
    scores : from `mambaseg.evaluate`
    names : of the classes, by number as text; those that are missing are called by their number
    """
    wanted = [name for name in _names(scores) if name not in _LEFT_OUT]
    if scores["kind"] == "classes":
        classes = list(scores["mean"]["classes"])
        unit = scores["cases"][0]["unit"] if scores["cases"] else ""
        charts = [spread(f"{name}{f' ({unit})' if name in _DISTANCES else ''}, by class",
                         {(names or {}).get(key, f"class {key}"): _values(scores, name, key) for key in classes},
                         *_range(name)) for name in wanted]
    else:
        shares = [name for name in wanted if _range(name) == (0.0, 1.0) and not name.startswith("ap@")]
        charts = [spread("Scores", {name: _values(scores, name) for name in shares}, 0.0, 1.0)]
        precisions = [name for name in wanted if name.startswith("ap@")]
        charts += [spread("Average precision by IoU", {name: _values(scores, name) for name in precisions}, 0.0, 1.0)]
        charts += [spread(name, {name: _values(scores, name)}) for name in wanted if name not in (*shares, *precisions)]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def table(scores: Scores, names: Names | None = None) -> str:
    """A line a case, or a line a class of a case, worst first; a click on a column's name sorts by it."""
    has_classes = scores["kind"] == "classes"
    columns = [name for name in _names(scores) if not name.startswith("ap@")]
    counts = [name for name in _SHOWN_COUNTS if name in _first(scores)]
    lines = []
    for case in scores["cases"]:
        parts = case["classes"].items() if has_classes else [("", case)]
        for key, values in parts:
            words = [str(case["case"])] + ([(names or {}).get(key, f"class {key}")] if has_classes else [])
            lines.append((values.get(headline(scores)), words, [values.get(name) for name in (*columns, *counts)]))
    lines.sort(key=lambda line: math.inf if line[0] is None else line[0])
    titles = ["Case", *(["Class"] if has_classes else [])]
    heads = "".join(f'<th data-kind="word" class="word"><button>{title}</button></th>' for title in titles)
    heads += "".join(f'<th data-kind="number"{" aria-sort=ascending" if name == headline(scores) else ""}>'
                     f"<button>{escape(_SHOWN_COUNTS.get(name, name.replace('_', ' ')))}</button></th>"
                     for name in (*columns, *counts))
    body = "".join("<tr>" + "".join(f'<td class="word">{escape(word)}</td>' for word in words)
                   + "".join(_cell(name, value) for name, value in zip((*columns, *counts), values, strict=True))
                   + "</tr>\n" for _, words, values in lines)
    return (f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def conventions(scores: Scores) -> str:
    """What each score means."""
    return definitions({name: words.replace("null", "no value") for name, words in scores["conventions"].items()})


def mean_words(scores: Scores) -> tuple[str, str]:
    """The headline's mean with its interval, and what it is."""
    name = headline(scores)
    key, ends = ("foreground_mean", "foreground_interval") if scores["kind"] == "classes" else ("mean", "interval")
    interval = scores[ends].get(name)
    said = f"mean {name}" + (f", 95 % [{number(interval[0])}, {number(interval[1])}]" if interval else "")
    return number(scores[key].get(name)) or "none", said


def _cell(name: str, value: float | None) -> str:
    """A number, with a bar behind it where it is a share of 1."""
    if value is None:
        return '<td data-v=""></td>'
    if is_count(name):
        return f'<td data-v="{value!r}">{value:,.0f}</td>'
    if _range(name) == (0.0, 1.0):
        return f'<td class="share" style="--v:{value:.4f}" data-v="{value!r}">{number(float(value))}</td>'
    return f'<td data-v="{value!r}">{number(value)}</td>'


def _first(scores: Scores) -> Mapping[str, Any]:
    """The values of one row, for their names."""
    case: Mapping[str, Any] = scores["cases"][0] if scores["cases"] else {}
    return next(iter(case["classes"].values()), {}) if scores["kind"] == "classes" and case else case


def _names(scores: Scores) -> list[str]:
    """Names of the scores, without counts and words."""
    return [name for name, value in _first(scores).items()
            if not is_count(name) and not isinstance(value, str)] or ["dice"]


def _range(name: str) -> tuple[float | None, float | None]:
    """Ends of a score's axis."""
    return (0.0, None) if name.startswith(_DISTANCES) else (0.0, 1.0)


def _values(scores: Scores, name: str, key: str | None = None) -> list[tuple[str, float]]:
    """(case, value) of a score, NaN where it is not defined."""
    rows = [(case["case"], case if key is None else case["classes"][key]) for case in scores["cases"]]
    return [(str(case), math.nan if row.get(name) is None else row[name]) for case, row in rows]


def _overall(case: Mapping[str, Any], name: str) -> float:
    """A case's score; over its classes, the mean of those that are defined. NaN where none is."""
    rows: Sequence[Mapping[str, Any]] = list(case["classes"].values()) if "classes" in case else [case]
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else math.nan
