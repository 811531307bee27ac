"""What models have to have in common to work together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.models.model import Model

__all__ = ["check_alike"]

# In words for the user
_ALIKE: dict[str, Callable[[Model], Any]] = {
    "kind": lambda model: model.kind,
    "classes": lambda model: model.classes,
    "channels": lambda model: model.channels,
    "regions": lambda model: model.class_labels,
    "order of painting": lambda model: model.region_order,
    "unit of length": lambda model: model.plan.unit,
    "decoder settings": lambda model: model.decoder,
}


def check_alike(first: Model, other: Model) -> None:
    """Refuse a model that does not go with the first, naming what differs.

    Raises
    ------
    ModelError : they find different things, or take different images
    """
    for word, value in _ALIKE.items():
        if value(first) != value(other):
            raise ModelError(f"{other.name} has the {word} {_words(value(other))}, but {first.name} has "
                             f"{_words(value(first))}; give models that agree in it.")


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
