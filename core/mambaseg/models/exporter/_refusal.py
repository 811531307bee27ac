"""Refusing to export what would get other results elsewhere: one sentence for all formats, and one check."""

from __future__ import annotations

from mambaseg._errors import ModelError
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
    """Refuse a network with outputs that are no classes, which only mambaseg knows how to read.

    Raises
    ------
    ModelError : it has such outputs
    """
    n_outputs = model.network_config.get("n_classes")
    if n_outputs != model.n_outputs:
        raise refusal(to, model, f"has {n_outputs} outputs that mean more than {model.n_outputs} classes")
