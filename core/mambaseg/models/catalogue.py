"""Which models there are, and finding one by its bundled name or its folder."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path

from mambaseg._errors import ModelError
from mambaseg.models.model import Model, read_model

__all__ = ["BUNDLED_FOLDER", "bundled", "listed", "load_model", "resolve"]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def bundled() -> list[str]:
    """Names of the models that come with the program, in alphabetical order."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob("*/model.json"))


def listed(names: Iterable[str]) -> dict[str, Model]:
    """Descriptions of models by what they are found by, each once, for a list to choose from.

    Parameters
    ----------
    names : bundled names and folders; those that have gone or cannot be read are left out
    """
    found = {}
    for name in dict.fromkeys(names):
        with contextlib.suppress(ModelError):
            found[name] = read_model(resolve(name))
    return found


def resolve(name_or_path: str | Path) -> Path:
    """The package folder that a bundled name or a path stands for.

    Raises
    ------
    ModelError : neither a bundled name nor a folder; suggests the nearest name
    """
    given = str(name_or_path)
    if given in bundled():
        return BUNDLED_FOLDER / given
    path = Path(given).expanduser()
    if path.is_dir():
        return path
    if path.name == "model.json" and path.is_file():
        return path.parent
    if path.is_file():
        raise ModelError(f"{given} is a file, but a model is a folder with model.json in it; give that folder or a "
                         f"bundled name ({', '.join(bundled())}).")
    raise ModelError(f'There is no model "{given}"{_suggestion(given)}')


def load_model(name_or_path: str | Path) -> Model:
    """A model by bundled name ("nuclei-2d") or package folder, fully checked.

    Parameters
    ----------
    name_or_path : a name of `bundled()` or a folder that holds model.json

    Raises
    ------
    ModelError : unknown (names the nearest), an nnU-Net folder (tells how to import it), or a broken package
    """
    from mambaseg.models.package import load_package  # names can be listed without waiting for torch

    folder = resolve(name_or_path)
    if not (folder / "model.json").exists() and _is_nnunet(folder):
        raise ModelError(f"{folder} is an nnU-Net model folder; make a model package of it first: "
                         f"mambaseg import {folder} -o MODEL")
    return load_package(folder)


def _suggestion(given: str) -> str:
    """How to go on after an unknown name."""
    names = bundled()
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    if near:
        return f'; did you mean "{near[0]}"? "mambaseg models" lists all.'
    return f"; give a bundled name ({', '.join(names)}) or the folder of a model package."


def _is_nnunet(folder: Path) -> bool:
    """Whether a folder looks like the output of nnU-Net's training."""
    return (folder / "plans.json").exists() or any(folder.glob("fold_*/checkpoint_*.pth"))
