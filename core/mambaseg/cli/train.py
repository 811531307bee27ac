"""mambaseg train: a model package from a folder of images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import mambaseg
from mambaseg._errors import Cancelled, UserError
from mambaseg.cli._console import ProgressLine, say
from mambaseg.cli._engine import start_engine

if TYPE_CHECKING:
    from mambaseg.models import Model

__all__ = ["train"]


def train(
    dataset: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, a raw folder of nnU-Net's, or a "
                                                 "CSV table with the columns image and labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    network: Annotated[str | None, typer.Option("--network", help="umamba-bot, umamba-enc, vmunet, vmunetv2 or unetv2; "
                                                       "to compare: nnunet, nnunet-resenc, segresnet, unetr, "
                                                       "swinunetr. Left out: the recipe's, "
                                                       "usually umamba-bot.")] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="How to learn, as a paper did: nnunet-adamw (for minutes on a "
                                                         "CPU), nnunet, isic, polyp, synapse, unetv2, unetv2-polyp or "
                                                         "umamba-cells.")] = "nnunet-adamw",
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="How long to train.")] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="How many steps to train.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False,
    instances: Annotated[bool | None, typer.Option("--instances/--classes", help="Labels number objects, or classes; "
                                                                                 "left out: guessed.")] = None,
    fit: Annotated[str | None, typer.Option("--fit", help="windows; or bilinear, antialias or cubic, to resize whole "
                                                          "pictures to the network as the authors of VM-UNet and U-Net "
                                                          "v2 do. Left out: as the recipe says.")] = None,
    initial: Annotated[Path | None, typer.Option("--initial", help="ImageNet weights (.pth) to start from: VMamba for "
                                                                   "vmunet and vmunetv2, PVT v2 for unetv2.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Patches an iteration; left out: as the recipe "
                                                                     "says, or planned from the data.")] = None,
    fold: Annotated[str, typer.Option("--fold", help="Which fifth of the cases is held out, 0 to 4, as nnU-Net counts; "
                                                     "where the data set does not say. all: none.")] = "0",
    instance_target: Annotated[str, typer.Option("--instance-target", help="What is learned of objects: boundary, or "
                                                 "distance, their relative depth, for ones that touch much."
                                                 )] = "boundary",
    small_data: Annotated[bool, typer.Option("--small-data", help="Stronger augmentation, for some tens of images."
                                             )] = False,
    configuration: Annotated[str | None, typer.Option("--configuration", help="2d, 3d_fullres, 3d_lowres, or "
                             "3d_cascade_fullres: a low resolution first, in half of the time, whose labels the full "
                             "one sees. Left out: 3d_fullres for volumes.")] = None,
    previous: Annotated[str | None, typer.Option("--previous", help="Model that finds the labels first in a cascade, "
                                                                    "in place of a new one.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Train a network on your own images and labels."""
    if minutes is not None and iterations is not None:
        raise UserError("Both --minutes and --iterations were given; give one of them.")
    from mambaseg.train.processes import is_started_first  # brings torch

    quiet = quiet or not is_started_first()
    start_engine(training=True, is_quiet=quiet)
    try:
        with ProgressLine(is_quiet=quiet) as progress:
            model = mambaseg.train(dataset, network=network, output=output, minutes=minutes, iterations=iterations,
                                   resume=resume, instances=instances, initial=initial, fit_to=fit, recipe=recipe,
                                   batch_size=batch, fold=fold, instance_target=instance_target,
                                   small_data=small_data, configuration=configuration, previous=previous,
                                   progress=progress)
    except Cancelled as error:
        raise Cancelled("Cancelled; the same command with --resume goes on from here.") from error
    if not is_started_first():
        return
    report = _write_report(model, output)
    if not quiet:
        _tell(model, output, report, initial)


def _tell(model: Model, output: Path, report: Path, initial: Path | None) -> None:
    """What came of the training."""
    for note, parts in (("Not used of", "not_used"), ("Left at random for lack of", "at_random")):
        if initial is not None and model.training["initial"][parts]:
            say(f"{note} {initial.name}: {', '.join(model.training['initial'][parts])}")
    for name, value in model.scores.items():
        if isinstance(value, float):
            say(f"{name.replace('_', ' ')} {value:.3f} on pictures held out from the training")
    say(f"Curves, scores and pictures: {report}")
    say(f"The model is in {output}; use it: mambaseg segment IMAGE -m {output}")


def _write_report(model: Model, output: Path) -> Path:
    """The report, beside the training's state: it shows pictures, which shall not travel with the model unasked."""
    from mambaseg.report import training_page, write_report
    from mambaseg.train.validation import load_validation

    work = output.with_name(f"{output.name}.training")
    write_report(training_page(model, load_validation(work)), work / "report.html")
    return work / "report.html"
