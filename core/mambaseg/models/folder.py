"""The folder of a model package: described anew, or copied, whole or not at all; without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mambaseg._errors import ModelError
from mambaseg.io.atomic import atomic_folder, atomic_path

if TYPE_CHECKING:
    from mambaseg.models.model import Model

__all__ = ["PREVIOUS", "copy_package", "package_folder", "write_description"]

PREVIOUS = "previous"  # folder, in that of a cascade, of its first stage


def package_folder(model: Model) -> Path:
    """Where a model was saved or loaded from.

    Raises
    ------
    ModelError : it was never saved
    """
    if model.folder is None:
        raise ModelError(f'Model "{model.name}" has no folder; save it with save_package first.')
    return model.folder


def write_description(model: Model) -> None:
    """Write `model.json` of a saved model anew, in one step; weights, test arrays and README.md stay as they are.

    Parameters
    ----------
    model : with its folder, and with the checksums of the weights there

    Raises
    ------
    UserError : the model was never saved, or its folder cannot be written
    """
    text = json.dumps(model.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(package_folder(model) / "model.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_package(model: Model, folder: Path | str) -> None:
    """Copy the files of a saved model into a new folder, which appears whole or not at all.

    Raises
    ------
    UserError : the model was never saved, there is something in the new folder, or it cannot be written
    """
    source = package_folder(model)
    with atomic_folder(folder) as staging:
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, staging / path.name)
        if model.previous:
            copy_package(model.stages[0], staging / PREVIOUS)
