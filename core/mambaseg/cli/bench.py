"""mambaseg bench: how fast this machine is, as ratios measured side by side in one run."""

from __future__ import annotations

import json
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
    """Measure the speed of the selective scan and of prediction."""
    if context.invoked_subcommand is None:
        raise UserError("Say what to measure: mambaseg bench scan, or mambaseg bench predict.")


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


def _show(title: str, figures: dict[str, float], json_file: str | None) -> None:
    """A table for people, or the figures as one JSON object."""
    if json_file == "-":
        say(json.dumps(figures))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Figure", title=title, box=None, pad_edge=False, header_style="bold")
    table.add_column("Value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}")
    Console().print(table)
    if json_file is not None:
        write_text(Path(json_file), json.dumps(figures, indent=2) + "\n")
