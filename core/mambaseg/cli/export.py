"""mambaseg export: a model for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mambaseg.cli._console import say

__all__ = ["export"]

_NEXT = {
    "nnunet": "run it: nnUNetv2_predict_from_modelfolder -i IMAGES -o LABELS -m {folder} -f {folds}; nnUNetv2_predict "
              "finds it as $nnUNet_results/Dataset900_{name}/nnUNetTrainer__nnUNetPlans__{configuration}",
    "bioimageio": "test it: bioimageio test {folder}"}


def export(
    model: Annotated[str, typer.Argument(help="Bundled name or folder of the model.")],
    to: Annotated[str, typer.Option("--to", help="nnunet, or bioimageio.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> None:
    """Write a model for nnU-Net or for programs that read the bioimage.io format."""
    from mambaseg.models.exporter import export_model  # brings torch, which a wrong option need not wait for

    made = export_model(model, to, output)
    if quiet:
        return
    for note in made.notes:
        say(note)
    if made.model.previous:
        say(f"The model is in {output}")
        return
    folds = " ".join(map(str, range(1 + len(made.model.members))))
    configuration = "2d" if made.model.plan.ndim == 2 else "3d_fullres"
    after = _NEXT[to].format(folder=output, folds=folds, name=made.model.name, configuration=configuration)
    say(f"The model is in {output}; {after}")
