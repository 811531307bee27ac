"""mambaseg finetune: a model that has learned from a few corrected pictures, with its score before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import mambaseg
from mambaseg._errors import Cancelled, UserError
from mambaseg.cli._console import ProgressLine, say
from mambaseg.cli._engine import start_engine
from mambaseg.io import read_labels

if TYPE_CHECKING:
    from mambaseg.image import Image
    from mambaseg.learn.finetune import Tuned

__all__ = ["finetune"]


def finetune(
    model: Annotated[str, typer.Option("--model", "-m", help="Model to start from: bundled name or folder.")],
    example: Annotated[list[Path], typer.Option("--example", metavar="IMAGE LABELS", help="A picture and its corrected "
                                                "labels; may be given again.")],
    labels: Annotated[list[Path], typer.Argument(hidden=True)],  # of the examples: typer knows no list of pairs
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="How long to train.")] = 2.0,
    sparse: Annotated[bool, typer.Option("--sparse", help="Labels say 0 where nobody looked, 1 for background and "
                                         "v + 1 for label v; without it they are whole and 0 is background.")] = False,
    add_class: Annotated[list[str] | None, typer.Option("--add-class", metavar="NAME", help="Name of a class that the "
                                                        "model lacks; may be given again.")] = None,
    old_data: Annotated[Path | None, typer.Option("--old-data", help="Data set of the kind that the model was made "
                                                  "for, to go over again and to tell what it forgot.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Learn from a few corrected pictures, --example IMAGE LABELS each; says what it was worth."""
    parent = mambaseg.load_model(model)
    if output.exists() and parent.folder is not None and output.resolve() == parent.folder.resolve():
        raise UserError(f"{output} is the model to start from; choose another folder, so that both can be compared.")
    if len(example) != len(labels):
        raise UserError(f"{len(example)} pictures and {len(labels)} label files were given; give pairs: "
                        "--example IMAGE LABELS.")
    examples = []
    for image, path in zip(example, labels, strict=True):
        values = read_labels(path).data
        examples.append((mambaseg.read(image), values if sparse else values.astype(np.int64) + 1))
    start_engine(training=True, is_quiet=quiet)
    work = output.with_name(f"{output.name}.training")
    try:
        with ProgressLine(is_quiet=quiet) as progress:
            tuned = mambaseg.finetune(parent, examples, minutes, new_classes=tuple(add_class or ()),
                                      parent_data=old_data, work=work, resume=resume, progress=progress)
    except Cancelled as error:
        raise Cancelled("Cancelled; the same command with --resume goes on from here.") from error
    report = _write_report(tuned, output, examples, work)
    if quiet:
        return
    for note in tuned.notes:
        say(note)
    say(tuned.judgement.sentence)
    say(f"Curves, scores and pictures: {report}")
    say(f"The model is in {output}; use it: mambaseg segment IMAGE -m {output}")


def _write_report(tuned: Tuned, output: Path, examples: Sequence[tuple[Image, NDArray[Any]]], work: Path) -> Path:
    """Save the model, and beside the training's state the report, for it shows the pictures."""
    from mambaseg.learn.examples import Example
    from mambaseg.report import finetune_page, write_report

    saved = tuned.save(output)
    write_report(finetune_page(tuned, saved, [Example(*each) for each in examples]), work / "report.html")
    return work / "report.html"
