"""Several models in one package, whose logits or probabilities are averaged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mambaseg._errors import ModelError
from mambaseg.models.alike import check_alike
from mambaseg.models.catalogue import load_model
from mambaseg.models.model import Member, Model
from mambaseg.models.package import save_package
from mambaseg.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["make_ensemble"]

def make_ensemble(models: Sequence[Model | Path | str], output: Path | str, name: str | None = None) -> Model:
    """Make one package of several models of the same classes and channels, each with its own network and plan.

    Networks of one kind and size whose plans prepare images alike, such as the folds of a cross-validation, have their
    logits averaged; then probabilities are averaged, each such group counting once. So nnU-Net joins folds and
    configurations (doi:10.1038/s41592-020-01008-z). Of a model that was taught a new kind of pictures the network for
    these is taken; adapters are left out.

    Parameters
    ----------
    models : two or more; bundled names or folders. 2-D models may join 3-D ones, then the ensemble takes volumes
    output : folder of the package; must not be that of one of the models
    name : of the ensemble; None: that of `output`

    Raises
    ------
    ModelError : fewer than two models, or two of them find different things or take different images
    """
    loaded = [(model if isinstance(model, Model) else load_model(model)).alone() for model in models]
    if len(loaded) < 2:
        raise ModelError(f"An ensemble is made of two or more models, but {len(loaded)} was given; name another.")
    output = Path(output).resolve()
    for model in loaded:
        model.refuse_cascade("join an ensemble")
        check_alike(loaded[0], model)
        if model.folder is not None and model.folder.resolve() == output:
            raise ModelError(f"{output} is one of the models themselves; give another folder for the ensemble.")
    first, *others = sorted(loaded, key=lambda model: -model.plan.ndim)  # stable: among equals the first given
    members, states = _join([first, *others])
    title = name if name is not None else output.name
    made = dataclasses.replace(
        first, name=re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.") or "ensemble", title=title,
        description=f"The mean of {len(loaded)} models: {', '.join(model.title for model in loaded)}.",
        licence="; ".join(dict.fromkeys(model.licence for model in loaded)), members=tuple(members), scores={},
        parent=None, training={"members": [{"name": model.name, "checksum": model.checksum} for model in loaded]})
    return save_package(output, made, states[0], members=states[1:])


def _join(models: Sequence[Model]) -> tuple[list[Member], list[Mapping[str, Tensor]]]:
    """The further networks, in groups of those that are alike, and the weights of all."""
    members: list[Member] = []
    leaders: list[Model] = []  # the first network of each group
    for part in (part for model in models for part in model.parts.values()):
        group = next((number for number, leader in enumerate(leaders) if _are_alike(leader, part)), len(leaders))
        if group == len(leaders):
            leaders.append(part)
        own = (leaders[group].plan, leaders[group].mirror_axes) if group else (None, None)
        members.append(Member(part.network, part.network_config, "", group, *own))
    return members[1:], [network.state_dict() for model in models for network in model.build_all()]


def _are_alike(one: Model, other: Model) -> bool:
    """Whether two networks are of one kind and size and see the same of an image."""
    first, second = ((part.network, part.network_config, part.mirror_axes, _seen(part.plan)) for part in (one, other))
    return first == second


def _seen(plan: Plan) -> Plan:
    """A plan without what only training asks for, and without measured values that nothing is normalised by."""
    measured = plan.intensities if "ct" in plan.normalisation else ()
    return dataclasses.replace(plan, batch_size=1, batch_dice=False, intensities=measured)
