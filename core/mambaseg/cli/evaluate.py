"""mambaseg evaluate: predictions against the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mambaseg
from mambaseg._errors import UserError
from mambaseg.cli._console import ProgressLine, say, say_error
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
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the pictures, to draw the outlines on in "
                                                                 "the report.")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Where the report goes; left out: "
                                                "report.html beside the table or the JSON, else in the folder of "
                                                "predictions; with --json - there is none.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score predictions against true labels."""
    for folder in (truth, predictions, *([] if images is None else [images])):
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
    else:
        _show(scores)
    if json_file is not None and json_file != "-":
        write_text(Path(json_file), json.dumps(scores, indent=2) + "\n")
    if report is not None or json_file != "-":
        settings = {"kind": scores["kind"], "protocol": protocol, "tolerance": tolerance, "ignored label": ignore}
        target = report or _beside(csv_file, json_file, predictions)
        is_there = _write_report(scores, truth, predictions, images, settings, target, is_wanted=report is not None)
        if is_there and json_file != "-":
            say(f"To look at: {target}")


def _write_report(scores: Mapping[str, Any], truth: Path, predictions: Path, images: Path | None,
                  settings: Mapping[str, Any], target: Path, *, is_wanted: bool) -> bool:
    """Whether the report was written; where nobody asked for it, a folder that cannot be written costs nothing else."""
    from mambaseg.report import evaluation_page, write_report

    page = evaluation_page(scores, truth, predictions, images,
                           {"truth": truth, "predictions": predictions, **settings})
    try:
        write_report(page, target)
    except UserError as error:
        if is_wanted:
            raise
        say_error(f"{error} The scores are complete; --report FILE puts the report elsewhere.")
        return False
    return True


def _beside(csv_file: Path | None, json_file: str | None, predictions: Path) -> Path:
    """Where the report goes if nobody said."""
    if csv_file is not None:
        return csv_file.with_name("report.html")
    return Path(json_file).with_name("report.html") if json_file else predictions / "report.html"


def _show(scores: Mapping[str, Any]) -> None:
    """Tables for people, and what each score means."""
    from rich.console import Console

    n_cases = len(scores["cases"])
    of = f"Protocol {scores['protocol']}" if scores["protocol"] else scores["kind"].capitalize()
    say(f"{of}, {n_cases} picture{'s' if n_cases != 1 else ''}")
    if scores["kind"] == "classes":
        if len(scores["mean"]["classes"]) > 1:
            Console().print(_by_class(scores["mean"]["classes"]))
        columns = {"Mean over classes": (scores["foreground_mean"], scores["foreground_interval"])}
    else:
        columns = {"Mean": (scores["mean"], scores["interval"])}
        if scores["kind"] == "instances":
            columns["All objects as one set"] = (scores["pooled"], scores["pooled_interval"])
    Console().print(_overall(columns))
    if "pooled" in scores and scores["kind"] != "instances":
        say("Pooled: " + ", ".join(f"{name} {_number(value)}" for name, value in scores["pooled"].items()))
    say("")
    for name, words in scores["conventions"].items():
        say(f"{name}: {words}")


def _by_class(mean: Mapping[str, Mapping[str, float | None]]) -> Table:
    """A row a class; accuracy and error, of which the background makes most, are left to the files."""
    from rich.table import Table

    from mambaseg.metrics.summary import is_count

    names = [name for name in next(iter(mean.values())) if not is_count(name) and name not in ("accuracy", "mae")]
    table = Table("Class", *names, box=None, header_style="bold")
    for label, values in mean.items():
        table.add_row(label, *(_number(values.get(name)) for name in names))
    return table


def _overall(columns: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Table:
    """A row a score, with its interval."""
    from rich.table import Table

    from mambaseg.metrics.summary import is_count

    table = Table("Score", *(f"{title} [95 % interval]" for title in columns), box=None, header_style="bold")
    for name in next(iter(columns.values()))[0]:
        if not is_count(name):
            table.add_row(name, *(_shown(values.get(name), intervals.get(name))
                                  for values, intervals in columns.values()))
    return table


def _shown(value: float | None, interval: Sequence[float] | None) -> str:
    """A score with its interval: 0.912 [0.874, 0.941]."""
    if value is None or interval is None:
        return _number(value)
    return f"{_number(value)} [{_number(interval[0])}, {_number(interval[1])}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
