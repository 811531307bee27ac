"""One door to the formats that a model can be exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mambaseg._errors import UserError
from mambaseg.io.atomic import atomic_folder
from mambaseg.models.catalogue import load_model
from mambaseg.models.exporter.bioimageio import write_bioimageio
from mambaseg.models.exporter.nnunet import write_nnunet
from mambaseg.models.model import Model

__all__ = ["FORMATS", "Exported", "export_model"]

FORMATS: dict[str, Callable[[Model, Path], tuple[str, ...]]] = {
    "nnunet": write_nnunet, "bioimageio": write_bioimageio}


@dataclass(frozen=True)
class Exported:
    """What `export_model` made.

    Parameters
    ----------
    model : the model that was exported
    folder : where it is now
    notes : sentences for people: what the other program needs, and where its results differ
    """

    model: Model
    folder: Path
    notes: tuple[str, ...]


def export_model(model: Model | Path | str, to: str, output: Path | str) -> Exported:
    """Write a model for another program; the folder appears whole or not at all.

    Parameters
    ----------
    model : a Model, a bundled name or a package folder
    to : a key of `FORMATS`
    output : folder to make

    Raises
    ------
    UserError : no such format or model, the folder exists or cannot be written, or the model does something that the
        other program cannot do, so that its labels would be others
    """
    if to not in FORMATS:
        raise UserError(f"{to!r} is no format to export to; choose one of {', '.join(FORMATS)}.")
    loaded = model if isinstance(model, Model) else load_model(model)
    alone = loaded.alone()
    with atomic_folder(output) as folder:
        notes = FORMATS[to](alone, folder)
    return Exported(alone, Path(output), (*_left_out(loaded), *notes))


def _left_out(model: Model) -> list[str]:
    """What of a model no other program can do, in sentences for people."""
    notes = []
    if model.taught:
        notes.append("Only the network for the kind of images that the model learned last was exported; for other "
                     "images export the model that it was made from.")
    named = [adapter.name for adapter in model.adapters if adapter.is_on]
    if named:
        notes.append(f"What the model learned at once ({', '.join(named)}) was not exported.")
    return notes
