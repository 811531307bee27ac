"""mambaseg import: a model package from an official checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mambaseg._errors import UserError
from mambaseg.cli._console import say

__all__ = ["import_"]


def import_(
    source: Annotated[Path, typer.Argument(help="Checkpoint file (.pth) or nnU-Net model folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; left out: the folder's.")] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Names of the classes, background first: "
                                                                  "background,liver,spleen")] = None,
    patch: Annotated[str | None, typer.Option("--patch", help="Sides of the network's input: 512,512")] = None,
    strides: Annotated[str | None, typer.Option("--strides", help="Of each stage of a U-Mamba without a plan: "
                                                                  "1x1,2x2,2x2; or 2 for 2 everywhere")] = None,
    deep_supervision: Annotated[bool | None, typer.Option(
        "--deep-supervision/--no-deep-supervision", help="Whether a VM-UNetV2 was trained with it.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> None:
    """Make a model of an official checkpoint of U-Mamba, VM-UNet, VM-UNetV2, U-Net v2 or nnU-Net."""
    sides = None if patch is None else _numbers(patch, "--patch", "512,512")
    steps = None if strides is None else _strides(strides)
    from mambaseg.models.importer import import_checkpoint  # brings torch, which a wrong option need not wait for

    names = None if classes is None else tuple(part.strip() for part in classes.split(","))
    model = import_checkpoint(source, output, name=name, classes=names, patch=sides, strides=steps,
                              deep_supervision=deep_supervision)
    if quiet:
        return
    n_networks = 1 + len(model.members)
    say(f"{model.description.rstrip('.')}: {', '.join(model.classes)}"
        + (f"; {n_networks} networks, averaged" if n_networks > 1 else ""))
    for note in model.training["notes"]:
        say(note)
    say(f"The model is in {output}; use it: mambaseg segment IMAGE -m {output}")


def _strides(text: str) -> int | list[tuple[int, ...]]:
    """A number for all stages, or a row for each."""
    if re.fullmatch(r"\d{1,2}", text.strip()):
        return int(text)
    return [_numbers(row, "--strides", "1x1,2x2,2x2", "x") for row in text.split(",")]


def _numbers(text: str, option: str, example: str, separator: str = ",") -> tuple[int, ...]:
    """Whole numbers above 0 out of an option's text."""
    parts = [part.strip() for part in text.split(separator)]
    if not all(re.fullmatch(r"0*[1-9]\d{0,4}", part) for part in parts):
        raise UserError(f"{option} is {text!r}, but whole numbers above 0 are expected, such as {option} {example}.")
    return tuple(int(part) for part in parts)
