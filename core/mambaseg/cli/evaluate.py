"""mambaseg evaluate: predictions against the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mambaseg
from mambaseg._errors import UserError
from mambaseg.cli._console import ProgressLine, say
from mambaseg.cli._outputs import write_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluate"]


def evaluate(
    truth: Annotated[Path, typer.Option("--truth", help="Folder of true labels.")],
    predictions: Annotated[Path, typer.Option("--predictions", help="Folder of predicted labels of the same names, "
                                                                    "with or without _labels.")],
    kind: Annotated[str, typer.Option("--kind", help="auto, classes or instances.")] = "auto",
    protocol: Annotated[str | None, typer.Option("--protocol", help="Score as a paper does, with its quirks: synapse, "
                                                                    "isic, polyp or umamba.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice (NSD), in mm, or in the "
                                                                        "labels' own unit.")] = 1.0,
    distances: Annotated[bool, typer.Option("--distances/--no-distances", help="Surface distances of classes; they "
                                                                               "take longest.")] = True,
    ignore: Annotated[int | None, typer.Option("--ignore", help="Label of voxels that do not count.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the scores of each picture as a "
                                                                                "table.")] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write all scores, also by picture, "
                                                                                 "as JSON; - for stdout.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score predictions against true labels."""
    for folder in (truth, predictions):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give a folder of label images.")
    chosen: Any = kind  # checked by evaluate, which lists the choices
    with ProgressLine(is_quiet=quiet) as progress:
        scores = mambaseg.evaluate(truth, predictions, chosen, ignore_label=ignore, distances=distances,
                                   tolerance=tolerance, protocol=protocol, progress=progress)
    if csv_file is not None:
        from mambaseg.metrics.table import to_csv

        write_text(csv_file, to_csv(scores))
    if json_file == "-":
        say(json.dumps(scores))
        return
    _show(scores)
    if json_file is not None:
        write_text(Path(json_file), json.dumps(scores, indent=2) + "\n")


def _show(scores: Mapping[str, Any]) -> None:
    """Tables for people, and what each score means."""
    from rich.console import Console

    Console().print(_table(scores))
    if "pooled" in scores and scores["kind"] != "instances":
        say("Pooled: " + ", ".join(f"{name} {_number(value)}" for name, value in scores["pooled"].items()))
    say("")
    for name, words in scores["conventions"].items():
        say(f"{name}: {words}")


def _table(scores: Mapping[str, Any]) -> Table:
    """A row a class, or a row a score."""
    from rich.table import Table

    from mambaseg.metrics.summary import is_count

    n_cases = len(scores["cases"])
    of = f"protocol {scores['protocol']}" if scores["protocol"] else scores["kind"].capitalize()
    title = f"{of}, {n_cases} picture{'s' if n_cases != 1 else ''}, mean [95 % interval]"
    if scores["kind"] == "classes":
        rows = {**scores["mean"]["classes"], "mean": scores["foreground_mean"]}
        intervals = {**scores["interval"]["classes"], "mean": scores["foreground_interval"]}
        table = Table("Score", *rows, title=title, box=None, header_style="bold")
        for name in (name for name in scores["foreground_mean"] if not is_count(name)):
            table.add_row(name, *(_shown(values.get(name), intervals[label].get(name))
                                  for label, values in rows.items()))
        return table
    table = Table("Score", "Mean", *(("Pooled",) if scores["kind"] == "instances" else ()), title=title, box=None,
                  header_style="bold")
    for name, value in scores["mean"].items():
        if not is_count(name):
            table.add_row(name, _shown(value, scores["interval"].get(name)), *(
                (_shown(scores["pooled"].get(name), scores["pooled_interval"].get(name)),)
                if scores["kind"] == "instances" else ()))
    return table


def _shown(value: float | None, interval: Sequence[float] | None) -> str:
    """A score with its interval: 0.912 [0.874, 0.941]."""
    if value is None or interval is None:
        return _number(value)
    return f"{_number(value)} [{_number(interval[0])}, {_number(interval[1])}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
