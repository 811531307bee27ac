"""Several models in one package, whose probabilities are averaged."""

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

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["make_ensemble"]

def make_ensemble(models: Sequence[Model | Path | str], output: Path | str, name: str | None = None) -> Model:
    """Make one package of several models of the same classes and channels, each with its own network and plan.

    The probabilities of the models are averaged, each model counting once; folds within a model stay together, with
    their logits averaged. So nnU-Net joins configurations (doi:10.1038/s41592-020-01008-z). Of a model that was
    taught a new kind of pictures the network for these is taken; adapters are left out.

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
    members, states = _join(first, others)
    title = name if name is not None else output.name
    made = dataclasses.replace(
        first, name=re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.") or "ensemble", title=title,
        description=f"The mean of {len(loaded)} models: {', '.join(model.title for model in loaded)}.",
        licence="; ".join(dict.fromkeys(model.licence for model in loaded)), members=tuple(members), scores={},
        parent=None, training={"members": [{"name": model.name, "checksum": model.checksum} for model in loaded]})
    return save_package(output, made, states[0], members=states[1:])


def _join(first: Model, others: Sequence[Model]) -> tuple[list[Member], list[Mapping[str, Tensor]]]:
    """The further networks, each model's in groups of their own, and the weights of all."""
    members = list(first.members)
    states: list[Mapping[str, Tensor]] = [network.state_dict() for network in first.build_all()]
    for model in others:
        n_groups = 1 + max((member.group for member in members), default=0)
        members += [dataclasses.replace(
            member, checksum="", group=n_groups + member.group,
            plan=model.plan if member.plan is None else member.plan,
            mirror_axes=model.mirror_axes if member.mirror_axes is None else member.mirror_axes)
            for member in (Member(model.network, model.network_config), *model.members)]
        states += [network.state_dict() for network in model.build_all()]
    return members, states
