"""mambaseg segment: labels for each input file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mambaseg
from mambaseg._errors import UserError
from mambaseg.cli._console import ProgressLine, one_line, say, say_error
from mambaseg.cli._engine import start_engine
from mambaseg.cli._outputs import check_outputs, write_outputs
from mambaseg.words import duration, found

if TYPE_CHECKING:
    from mambaseg.models import Model

__all__ = ["parse_roi", "segment"]

Inputs = Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures, volumes or DICOM folders.")]


def segment(
    inputs: Inputs,
    model: Annotated[str, typer.Option("--model", "-m", help="Bundled name (mambaseg models) or model folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for all results; left out: beside "
                                                                       "each input.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write the picture with outlines (PNG).")] = False,
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirror images: slower, a little better.")] = False,
    roi: Annotated[str | None, typer.Option("--roi", metavar="Y0:Y1,X0:X1", help="Only this part, in voxels; "
                                                                                 "Z0:Z1 first for volumes.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line an input on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Segment pictures and volumes.

    Writes NAME_labels in the input's own format, NAME_features.csv where the model finds objects, and NAME_record.json.
    """
    box = parse_roi(roi)
    targets = check_outputs(inputs, output)
    loaded = mambaseg.load_model(model)
    start_engine(is_quiet=quiet)
    options: dict[str, Any] = {"device": device, "precision": precision, "tta": tta, "roi": box}
    n_failed = 0
    for path, target in targets.items():
        try:
            answer, line = _segment_one(path, target, loaded, options, overlay, quiet)
        except UserError as error:
            n_failed += 1
            message = str(error) if path.name in str(error) else f"{path.name}: {error}"
            say_error(message)
            answer, line = {"input": str(path), "error": one_line(message)}, ""
        if as_json:
            say(json.dumps(answer))
        elif line and not quiet:
            say(line)
    if n_failed:
        raise typer.Exit(2)


def _segment_one(path: Path, target: Path, model: Model, options: dict[str, Any], with_overlay: bool,
                 is_quiet: bool) -> tuple[dict[str, Any], str]:
    """Segment one input and write the results; the JSON answer and the line for people."""
    with ProgressLine(path.name, is_quiet=is_quiet) as progress:
        result = mambaseg.segment(path, model, progress=progress, **options)
    paths = write_outputs(result, target, with_overlay=with_overlay)
    record = result.record
    for note in [] if is_quiet else record["notes"]:
        say_error(f"{path.name}: {note}")
    answer = {"input": str(path), **{name: str(file) for name, file in paths.items()}}
    answer |= {key: record[key] for key in ("n_objects", "voxels", "seconds", "notes") if key in record}
    return answer, one_line(f"{path.name}: {found(record)} in {duration(record['seconds'])} -> {target}")


def parse_roi(text: str | None) -> tuple[tuple[int, int], ...] | None:
    """Ranges such as 10:200,30:400 as ((10, 200), (30, 400)).

    Raises
    ------
    UserError : anything else
    """
    if text is None:
        return None
    try:
        box = tuple((int(start), int(stop)) for start, stop in (part.split(":") for part in text.split(",")))
    except ValueError as error:
        raise UserError(f'--roi is "{text}", but a range an axis such as 0:200,50:300 was expected; give whole numbers '
                        "of voxels.") from error
    if any(start < 0 or stop <= start for start, stop in box):
        raise UserError(f'--roi is "{text}", but each range must begin at 0 or later and end after its beginning.')
    return box
