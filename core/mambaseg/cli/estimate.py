"""mambaseg estimate: what a segmentation will cost, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import mambaseg
from mambaseg.cli._console import one_line, say
from mambaseg.cli._engine import start_engine
from mambaseg.cli.segment import parse_roi
from mambaseg.words import estimate_line

__all__ = ["estimate"]


def estimate(
    image: Annotated[Path, typer.Argument(metavar="INPUT", help="Picture, volume or DICOM folder.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Bundled name (mambaseg models) or model folder.")],
    tta: Annotated[bool, typer.Option("--tta", help="With mirror images.")] = False,
    roi: Annotated[str | None, typer.Option("--roi", metavar="Y0:Y1,X0:X1", help="Only this part, in voxels.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout.")] = False,
) -> None:
    """Say how long a segmentation will take and how much memory."""
    box = parse_roi(roi)
    loaded = mambaseg.load_model(model)
    start_engine(is_quiet=as_json)
    cost = mambaseg.estimate(image, loaded, device=device, precision=precision, tta=tta, roi=box)
    if as_json:
        say(json.dumps({"input": str(image), **asdict(cost)}))
        return
    windows = f"{cost.n_windows:,} window{'s' if cost.n_windows != 1 else ''}"
    say(one_line(f"{image.name}: {windows}. {estimate_line(cost).rstrip('.')}."))
