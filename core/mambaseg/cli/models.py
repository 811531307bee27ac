"""mambaseg models: what there is, what a model was made for, and whether it still computes what it did."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mambaseg._errors import UserError
from mambaseg.cli._console import say
from mambaseg.models import bundled, load_model, read_model, resolve

__all__ = ["app"]

TOLERANCE = 1e-3  # of logits: other processors round differently

app = typer.Typer()


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """List, describe and check models."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """List the models that come along."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Name", "For", "Takes", "Licence"):
        table.add_column(column)
    for name in bundled():
        model = read_model(resolve(name))
        table.add_row(name, model.description, f"{model.plan.ndim}-D, {', '.join(model.channels)}", model.licence)
    Console(soft_wrap=False).print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Bundled name or model folder.")],
         as_json: Annotated[bool, typer.Option("--json", help="The whole description as JSON.")] = False) -> None:
    """Describe a model: made for, trained on, scores, licence."""
    from mambaseg.models.card import card

    model = read_model(resolve(name))
    if as_json:
        say(json.dumps(model.to_json(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(card(model)) if console.is_terminal else card(model), markup=False)


@app.command()
def check(name: Annotated[str | None, typer.Argument(help="Bundled name or model folder; left out: all that come "
                                                          "along.")] = None) -> None:
    """Recompute the test output of a model and compare."""
    from mambaseg.models.package import check_package

    is_good = True
    for each in [name] if name is not None else bundled():
        difference = check_package(load_model(each))
        is_good &= difference <= TOLERANCE
        say(f"{each} {difference:.3g} {TOLERANCE:g} {'ok' if difference <= TOLERANCE else 'FAIL'}")
    if not is_good:
        raise typer.Exit(2)


@app.command()
def adapter(model: Annotated[str, typer.Argument(help="Model folder.")],
            name: Annotated[str, typer.Argument(help="The adapter's name, as mambaseg models show tells.")],
            action: Annotated[str, typer.Option("--set", help="on, off or removed.")] = "on") -> None:
    """Switch what was learned at once on or off, or remove it."""
    from mambaseg.models.adapters import remove_adapter, switch_adapter

    found = load_model(model)
    if action not in ("on", "off", "removed"):
        raise UserError(f'An adapter cannot be set to "{action}"; choose on, off or removed.')
    if action == "removed":
        remove_adapter(found, name)
    else:
        switch_adapter(found, name, action == "on")
    say(f"{name} is {action}")
