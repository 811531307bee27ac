"""mambaseg bench: how fast this machine is, as ratios measured side by side in one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mambaseg._errors import UserError
from mambaseg.cli._console import say
from mambaseg.cli._outputs import write_text

__all__ = ["app"]

app = typer.Typer()

Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, within 45 s on 2 cores.")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON; - prints them and "
                                                                         "nothing else on stdout.")]


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Measure the speed of the selective scan and of prediction, what each network costs, and how well one learns."""
    if context.invoked_subcommand is None:
        raise UserError("Say what to measure: mambaseg bench scan, predict, networks or learn.")


@app.command()
def scan(quick: Quick = False, json_file: Json = None) -> None:
    """Selective scan: fused against reference, forward and backward."""
    from mambaseg.bench import scan as bench

    _show("Selective scan", bench.run(quick), json_file)


@app.command()
def predict(quick: Quick = False, json_file: Json = None) -> None:
    """Prediction: time of scan, convolutions and the rest."""
    from mambaseg.bench import predict as bench

    _show("Prediction", bench.run(quick), json_file)


@app.command()
def networks(quick: Quick = False, json_file: Json = None) -> None:
    """All networks at one size: parameters, multiply-adds, memory, time."""
    from mambaseg.bench import networks as bench
    from mambaseg.nets.registry import NETWORKS

    figures = bench.run(quick)
    side = figures["image_side_px"]
    rows = [[network, *(figures.get(f"{bench.label(network)}_{name}", "") for name in bench.FIGURES)]
            for network in NETWORKS]
    _show(f"Networks, a picture of {side} x {side} pixels, float32", figures, json_file,
          ["Network", *bench.FIGURES.values()], rows)
    missing = {network: figures.get(f"{bench.label(network)}_missing") for network in NETWORKS}
    for network, reason in missing.items():
        if reason is not None and json_file != "-":
            say(f"{network}: {reason}")


@app.command()
def learn(quick: Quick = False, json_file: Json = None,
          data: Annotated[Path | None, typer.Option("--data", help="Folder with the data sets cells2d, nuclei2d and, "
                                                    "if there, hippocampus3d; without it pictures are drawn.")] = None,
          seeds: Annotated[int, typer.Option("--seeds", min=1, help="Users, each with pictures of their own; medians "
                                                                    "over them.")] = 5) -> None:
    """Learning from corrections: score gained by a simulated user."""
    from mambaseg.bench import learn as bench
    from mambaseg.cli._console import say_error

    _show("Learning from corrections", bench.run(quick, data, seeds, say_error), json_file)


def _show(title: str, figures: Mapping[str, float | str], json_file: str | None, heads: Sequence[str] = (),
          rows: Sequence[Sequence[float | str]] = ()) -> None:
    """A table for people, or the figures as one JSON object."""
    if json_file == "-":
        say(json.dumps(figures))
        return
    from rich.console import Console
    from rich.table import Table

    first, *others = heads or ("Figure", "Value")
    table = Table(first, title=title, box=None, pad_edge=False, header_style="bold")
    for head in others:
        table.add_column(head, justify="right")
    for row in rows or list(figures.items()):
        table.add_row(*map(_cell, row))
    Console().print(table)
    if json_file is not None:
        write_text(Path(json_file), json.dumps(figures, indent=2) + "\n")


def _cell(value: float | str) -> str:
    """A figure in three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
