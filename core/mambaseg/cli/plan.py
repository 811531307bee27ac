"""mambaseg plan: check a data set and say what a network for it would look like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mambaseg.cli._console import ProgressLine, say
from mambaseg.cli._outputs import write_text
from mambaseg.words import size

if TYPE_CHECKING:
    from mambaseg.train.planning import Planned

__all__ = ["plan"]

_TITLES = {"2d": "2-D", "3d_lowres": "3-D, low resolution", "3d_fullres": "3-D, full resolution"}


def plan(
    dataset: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, a raw folder of nnU-Net's, or a "
                                                 "CSV table with the columns image and labels.")],
    planner: Annotated[str, typer.Option("--planner", help="umamba (nnU-Net 2.1.1, as its authors used), current, "
                                                           "resenc-m, resenc-l or resenc-xl.")] = "umamba",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write nnU-Net's plans.json "
                                                                                       "there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plans.json instead of a table.")] = False,
    instances: Annotated[bool | None, typer.Option("--instances/--classes", help="Labels number objects, or classes; "
                                                                                 "left out: guessed.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Check a data set and plan patch, batch, spacing and network for it."""
    from mambaseg.train.planning import plan_files

    with ProgressLine(is_quiet=quiet) as progress:
        made = plan_files(dataset, planner, instances, progress)
    text = json.dumps(made.plans, indent=2)
    if output is not None:
        write_text(output, text + "\n")
    if as_json:
        say(text)
        return
    _show(made, planner)
    if output is not None:
        say(f"The plans are in {output}.")


def _show(made: Planned, planner: str) -> None:
    """A table, a column for each configuration."""
    from rich.console import Console
    from rich.table import Table

    data = made.data
    n_cases = len(data.train) + len(data.validation)
    kind = "objects" if data.instances else f"{len(data.classes)} classes"
    channels = f"{data.n_channels} channel{'s' if data.n_channels > 1 else ''}"
    names = [name for name in _TITLES if name in made.plans["configurations"]]
    columns = [_column(made, name, planner) for name in names]
    table = Table("", *(_TITLES[name] for name in names), box=None, header_style="bold",
                  title=f"{n_cases} cases, {channels}, {kind}; planner {planner}")
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns))
    Console().print(table)
    if "3d_cascade_fullres" in made.plans["configurations"]:
        say("A cascade is planned too: full resolution, with the labels of the low resolution as further channels.")
    say("Memory: a GPU's while a plain U-Net of this size trains, as nnU-Net reckons; Mamba layers come on top. "
        "mambaseg train itself plans smaller, for an ordinary CPU.")


def _column(made: Planned, name: str, planner: str) -> dict[str, str]:
    """What is planned for one configuration, in words."""
    from mambaseg.plan._nnunet_form import read_network, read_schemes, resolve
    from mambaseg.plan.rules import memory_bytes

    values = resolve(made.plans, name)
    network = read_network(values)
    schemes = read_schemes(values["normalization_schemes"])
    masked = ["" if not mask else " in the nonzero region" for mask in values["use_mask_for_norm"]]
    return {
        "Patch": _times(values["patch_size"]),
        "Batch": str(values["batch_size"]),
        f"Spacing ({made.data.unit})": _times(values["spacing"]),
        "Median image": _times(values["median_image_size_in_voxels"]),
        "Stages": str(len(network["strides"])),
        "Features": ", ".join(map(str, network["features_per_stage"])),
        "Strides": _runs(network["strides"]),
        "Kernels": _runs(network["kernel_sizes"]),
        "Normalisation": ", ".join(dict.fromkeys(a + b for a, b in zip(schemes, masked, strict=True))),
        "Memory": size(memory_bytes(made.plans, name, planner, made.n_labels)),
    }


def _times(numbers: Sequence[float]) -> str:
    """Sizes per axis: 20 x 256 x 224."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def _runs(rows: Sequence[Any]) -> str:
    """Rows of sizes, equal neighbours counted: 1x3x3, 5 of 3x3x3."""
    runs: list[tuple[str, int]] = []
    for row in ("x".join(map(str, values)) for values in rows):
        if runs and runs[-1][0] == row:
            runs[-1] = (row, runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return ", ".join(row if n == 1 else f"{n} of {row}" for row, n in runs)
