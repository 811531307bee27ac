"""mambaseg ensemble: one model package of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mambaseg.cli._console import say

__all__ = ["ensemble"]


def ensemble(
    models: Annotated[list[str], typer.Argument(help="Two or more models: bundled names or folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; left out: the folder's.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> None:
    """Join models of the same classes: folds have their logits averaged, different models their probabilities."""
    from mambaseg.models.ensemble import make_ensemble  # brings torch, which a wrong option need not wait for

    made = make_ensemble(models, output, name)
    if not quiet:
        say(f"{made.description} It takes as long as all of them together.")
        say(f"The model is in {output}; use it: mambaseg segment IMAGE -m {output}")
