"""Refusing to export what would get other results elsewhere: one sentence for all formats, and one check."""

from __future__ import annotations

from mambaseg._errors import ModelError
from mambaseg.models.folder import PREVIOUS
from mambaseg.models.model import Model

__all__ = ["check_outputs", "refusal"]


def refusal(to: str, model: Model, why: str) -> ModelError:
    """The error that says why a model cannot be exported.

    Parameters
    ----------
    to : name of the program or format
    why : goes on after "because it"
    """
    return ModelError(f'Model "{model.name}" cannot be exported to {to}, because it {why}.')


def check_outputs(to: str, model: Model) -> None:
    """Refuse a network with inputs or outputs that only mambaseg knows how to make, or to read.

    Raises
    ------
    ModelError : it is a cascade, or has outputs that are no classes
    """
    if model.previous:
        raise refusal(to, model, "is a cascade of two networks, which is not written there; export the one of low "
                      f"resolution in its folder {PREVIOUS}, or train a model of one resolution")
    n_outputs = model.network_config.get("n_classes")
    if n_outputs != model.n_outputs:
        raise refusal(to, model, f"has {n_outputs} outputs that mean more than {model.n_outputs} classes")
