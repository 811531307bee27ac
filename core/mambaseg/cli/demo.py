"""mambaseg demo: a real picture in, its cells out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import mambaseg
from mambaseg.cli._console import ProgressLine, one_line, say
from mambaseg.cli._engine import start_engine
from mambaseg.cli._outputs import check_outputs, describe, write_outputs
from mambaseg.words import duration, found

if TYPE_CHECKING:
    from mambaseg.image import Image

__all__ = ["demo", "sample"]

MODEL = "nuclei-2d"
PICTURE = "immunohistochemistry.png"


def demo(
    picture: Annotated[Path | None, typer.Option("--picture", help="Your own picture instead.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("mambaseg-demo"),
) -> None:
    """Segment a real picture and say where to look."""
    model = mambaseg.load_model(MODEL)
    target = check_outputs([picture or Path(PICTURE)], output)[picture or Path(PICTURE)]
    image = sample() if picture is None else mambaseg.read(picture)
    start_engine()
    kind = "a tissue section that comes with scikit-image" if picture is None else str(picture)
    say(f"Picture  {one_line(kind)}, {describe(image)}")
    say(f"Model    {model.title}: {model.description}")
    with ProgressLine() as progress:
        result = mambaseg.segment(image, model, progress=progress)
    paths = write_outputs(result, target, with_overlay=True)
    for note in result.record["notes"]:
        say(f"Note     {one_line(note)}")
    record = result.record
    say(f"Found    {found(record, 'cell')} in {duration(record['seconds'])}, on {record['settings']['device']}")
    names = {"overlay": "outlines over the picture", "labels": "one number a cell", "features": "a row a cell: place, "
             "size, brightness", "record": "what ran, with versions"}
    say("Look at")
    width = max(len(str(path)) for path in paths.values())
    for name, meaning in names.items():
        if name in paths:
            say(f"         {paths[name]!s:<{width}}  {meaning}")


def sample() -> Image:
    """scikit-image's immunohistochemistry picture: nuclei in tissue (it is inside the package, nothing is fetched)."""
    from skimage import data

    from mambaseg.image import Image

    return dataclasses.replace(Image.from_array(data.immunohistochemistry(), "YXS"), source=PICTURE)
