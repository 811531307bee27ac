"""mambaseg evaluate: predictions against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mambaseg
from mambaseg._errors import UserError
from mambaseg.cli._console import say
from mambaseg.cli._outputs import write_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluate"]

_COUNTS = ("n_", "tp", "fp", "fn", "tn")  # counts say little as means; --json has them


def evaluate(
    truth: Annotated[Path, typer.Option("--truth", help="Folder of true labels.")],
    predictions: Annotated[Path, typer.Option("--predictions", help="Folder of predicted labels of the same names, "
                                                                    "with or without _labels.")],
    kind: Annotated[str, typer.Option("--kind", help="auto, classes or instances.")] = "auto",
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write all scores, also by picture, "
                                                                                 "as JSON; - for stdout.")] = None,
) -> None:
    """Score predictions against true labels."""
    for folder in (truth, predictions):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give a folder of label images.")
    chosen: Any = kind  # checked by evaluate, which lists the choices
    scores = mambaseg.evaluate(truth, predictions, chosen)
    if json_file == "-":
        say(json.dumps(scores))
        return
    from rich.console import Console

    Console().print(_table(scores))
    say("")
    for name, words in scores["conventions"].items():
        say(f"{name}: {words}")
    if json_file is not None:
        write_text(Path(json_file), json.dumps(scores, indent=2) + "\n")


def _table(scores: dict[str, Any]) -> Table:
    """A row a class, or a row a score of objects."""
    from rich.table import Table

    n_cases = len(scores["cases"])
    title = f"{scores['kind'].capitalize()}, {n_cases} picture{'s' if n_cases != 1 else ''}"
    if scores["kind"] == "classes":
        rows = {**scores["mean"]["classes"], "mean": scores["foreground_mean"]}
        names = [name for name in scores["foreground_mean"] if not name.startswith(_COUNTS)]
        table = Table("Class", *names, title=title, box=None, header_style="bold")
        for label, values in rows.items():
            table.add_row(label, *(_shown(values.get(name)) for name in names))
        return table
    table = Table("Score", "Mean", "Pooled", title=title, box=None, header_style="bold")
    for name, value in scores["mean"].items():
        if not name.startswith(_COUNTS):
            table.add_row(name, _shown(value), _shown(scores["pooled"].get(name)))
    return table


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
