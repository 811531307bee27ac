"""What a fine-tuned model takes over from its parent: weights to start from, and the networks that it keeps.

Corrections of pictures of a kind that the parent was never trained on make a network for that kind; the parent's own
stays beside it and answers for all others (`mambaseg.models.Model.suited`). So nothing can be forgotten, and learning
need not hold back. Corrections of a known kind change the network itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mambaseg.learn.examples import Example, first_frame
from mambaseg.learn.grow import add_classes, grow_state
from mambaseg.models import Model
from mambaseg.models.domains import is_like, is_new, representatives, signature
from mambaseg.models.model import Member
from mambaseg.nets.registry import build

__all__ = ["Inheritance", "inherit"]


@dataclass(frozen=True)
class Inheritance:
    """A fine-tuned model before it has learned anything.

    Parameters
    ----------
    child : its description, not saved
    network : to be trained; it answers as the parent does for the corrected pictures
    formers : weights of the networks that the child keeps for other kinds of pictures, those of its members
    """

    child: Model
    network: nn.Module
    formers: tuple[dict[str, Tensor], ...] = ()


def inherit(model: Model, examples: Sequence[Example], new_classes: Sequence[str]) -> Inheritance:
    """The beginning of a model that is to learn from `examples`.

    Parameters
    ----------
    model : saved; of an ensemble the first network learns and is kept alone
    new_classes : names of classes that the last layer grows by

    Raises
    ------
    ModelError : the model's kind cannot grow, or a name is taken
    """
    signatures = [signature(first_frame(example.image, model)) for example in examples]
    start = _start(model, examples, signatures)
    child = dataclasses.replace(model, members=(), adapters=(), decoder=start.decoder,
                                parent={"name": model.name, "checksum": model.checksum})
    if new_classes:
        child = add_classes(child, new_classes)
    config = child.network_config
    if child.network.startswith("umamba"):  # its coarser heads are always there; training uses them
        config = config | {"deep_supervision": True}
    network = build(child.network, **config)
    kept = _kept(model, start, signatures)
    formers = tuple(grow_state(dict(part.build().state_dict()), network) for part in kept)
    network.load_state_dict(grow_state(dict(start.build().state_dict()), network))
    goes_on = start is model and not any(part is model for part in kept)  # its network is not kept beside the new one
    known = start.taught if goes_on else ()
    members = tuple(Member(child.network, child.network_config, is_former=True, taught=part.taught,
                           decoder=part.decoder) for part in kept)
    child = dataclasses.replace(
        child, members=members, taught=representatives([*known, *signatures]) if members else (),
        trained_on=child.trained_on if members or not child.trained_on
        else representatives([*child.trained_on, *signatures]))
    return Inheritance(child, network, formers)


def _start(model: Model, examples: Sequence[Example], signatures: Sequence[Sequence[float]]) -> Model:
    """The network that answers for most of what was corrected, without adapters."""
    votes: dict[str, int] = {}
    parts = {part.checksum: part for part in model.parts.values()}
    for example, each in zip(examples, signatures, strict=True):
        checksum = model.suited(each).checksum
        votes[checksum] = votes.get(checksum, 0) + int((example.corrections > 0).sum())
    start = parts[max(votes, key=lambda checksum: votes[checksum])]
    return start if start is model else dataclasses.replace(start, adapters=())


def _kept(model: Model, start: Model, signatures: Sequence[Sequence[float]]) -> list[Model]:
    """Networks that go on answering for other kinds of pictures than the corrected ones, the newest first."""
    formers = model.formers
    if model.taught and start is model and all(_is_more_of(model, each) for each in signatures):
        return formers
    is_ensemble = len(formers) < len(model.members)
    if not model.taught and (is_ensemble or not all(is_new(each, model.trained_on) for each in signatures)):
        return []
    corrected = {tuple(each) for each in signatures}
    return [part for part in (model, *formers) if not part.taught or not corrected.issuperset(part.taught)]


def _is_more_of(model: Model, given: Sequence[float]) -> bool:
    """Whether a picture of this signature is of the kind that was taught last, nearer to it than to all else.

    Stricter than `mambaseg.models.Model.suited`: that a picture is answered best by a network does not yet mean that
    the network may forget its own kind for it.
    """
    others = tuple(row for former in model.formers for row in former.taught)
    return is_like(given, model.taught, model.trained_on, (*model.trained_on, *others))
