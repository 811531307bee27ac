"""Scores as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

__all__ = ["to_csv"]


def to_csv(scores: Mapping[str, Any]) -> str:
    """A line a picture, or a line for each class of each picture; empty cells where a score is not defined.

    Parameters
    ----------
    scores : from `mambaseg.evaluate`
    """
    rows = []
    for case in scores["cases"]:
        if "classes" in case:
            rows += [{"case": case["case"], "class": number, **values, "unit": case["unit"]}
                     for number, values in case["classes"].items()]
        else:
            rows.append(case)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
