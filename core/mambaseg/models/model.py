"""Model: everything `model.json` says, and the network it builds."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambaseg._errors import ModelError
from mambaseg.models import _schema
from mambaseg.models.adapters import Adapter, apply_adapters
from mambaseg.models.domains import Signatures, is_like
from mambaseg.models.folder import PREVIOUS
from mambaseg.plan import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KINDS", "Member", "Model", "read_model"]

KINDS = _schema.KINDS
_WEIGHTS = "weights.safetensors"
_MAX_JSON_BYTES = 8 * 2**20  # a model.json is a few KB; more is not one of ours


@dataclass(frozen=True)
class Member:
    """A further network of an ensemble, or what a model was before it was taught; shares its classes and channels.

    Networks of one group, such as the folds of a cross-validation, share a plan and have their logits averaged; groups
    have their probabilities averaged. So nnU-Net does it with folds and with configurations.

    Parameters
    ----------
    network, network_config : as in `Model`
    checksum : SHA-256 of its weights, ``weights_<k>.safetensors`` with k from 1, hexadecimal; empty: not saved
    group : number of its group; the model's first network is in group 0
    plan, mirror_axes : as in `Model`, alike for all of a group; None, as in group 0: those of the model
    is_former : not part of the ensemble, but the network that answers for pictures unlike those taught later
    taught : as in `Model`, of a former network
    decoder : as in `Model`, of a former network; None: that of the model
    """

    network: str
    network_config: dict[str, Any]
    checksum: str = ""
    group: int = 0
    plan: Plan | None = None
    mirror_axes: tuple[int, ...] | None = None
    is_former: bool = False
    taught: Signatures = ()
    decoder: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`, without what is as usual."""
        values: dict[str, Any] = {"network": self.network, "network_config": self.network_config,
                                  "checksum": self.checksum}
        if self.group:
            values["group"] = self.group
        if self.plan is not None:
            values["plan"] = self.plan.to_json()
        if self.mirror_axes is not None:
            values["mirror_axes"] = self.mirror_axes
        if self.is_former:
            values |= {"is_former": True, "taught": self.taught}
        if self.decoder is not None:
            values["decoder"] = self.decoder
        return values


@dataclass(frozen=True)
class Model:
    """A trained network with all that is needed to use it, to judge it and to name its source.

    Parameters
    ----------
    name : short name without spaces, as the command line takes it ("nuclei-2d")
    title : name for people ("Nuclei (2-D)")
    description : one sentence for people: what it is made for
    network : name in `mambaseg.nets.registry.NETWORKS`
    network_config : keyword arguments of `mambaseg.nets.build`
    plan : patch, spacing and normalisation
    classes : names by label value, background first
    channels : names in the order of the network's input channels
    kind : "classes" (softmax, one label a voxel), "regions" (sigmoid, classes may nest) or "instances" (interior and
        boundary, decoded to one number an object)
    licence : of the weights; an SPDX name where there is one
    decoder : keyword arguments of `mambaseg.instances.Decoder` for instances; None otherwise
    training : record of how it came to be: data, its licence, attribution, commands, iterations, seconds, tried
    scores : held-out scores by name
    parent : {"name": ..., "checksum": ...} of the model it was fine-tuned from; None: trained from scratch
    mirror_axes : spatial axes (after the plan's transpose) that test-time mirroring may flip
    schema_version : of `model.json`
    folder : where it was loaded from or saved to; None: not saved
    checksum : SHA-256 of `weights.safetensors`, hexadecimal; empty: not saved
    members : further networks whose outputs are averaged with those of the first
    regions : label values that each region is made of, for kind "regions"; empty: not known
    region_order : label that each region is painted with, later regions over earlier ones; empty: 1, 2, 3, ...
    keep_largest : groups of label values; of each group, taken as one, only the largest piece is kept in the labels
    adapters : named changes of what a network answers; those that are on are part of what it computes
    trained_on : signatures of pictures it was trained on, some that stand for all; empty: not known
    taught : signatures of pictures that the first network was fine-tuned on, where it answers only for pictures like
        these and a former member for all others; empty: it answers for all
    weights_file : in `folder`
    previous : SHA-256 of the `model.json` in the folder ``previous``, of a cascade: the package there, of a lower
        resolution, is run first, and the network sees the labels that it finds, `foreground_labels`, as further
        channels. Empty: there is none

    `members` and what follows, but for `weights_file`, is in `model.json` only where there is any.
    """

    name: str
    title: str
    description: str
    network: str
    network_config: dict[str, Any]
    plan: Plan
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    kind: str
    licence: str
    decoder: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    parent: dict[str, str] | None = None
    mirror_axes: tuple[int, ...] = ()
    schema_version: int = _schema.SCHEMA_VERSION
    folder: Path | None = None
    checksum: str = ""
    members: tuple[Member, ...] = ()
    regions: tuple[tuple[int, ...], ...] = ()
    region_order: tuple[int, ...] = ()
    keep_largest: tuple[tuple[int, ...], ...] = ()
    adapters: tuple[Adapter, ...] = ()
    trained_on: Signatures = ()
    taught: Signatures = ()
    weights_file: str = _WEIGHTS
    previous: str = ""

    @property
    def n_channels(self) -> int:
        """Channels of an image."""
        return len(self.channels)

    @property
    def n_inputs(self) -> int:
        """Channels that the network takes: those of an image, and of a cascade one for each label found before."""
        return self.n_channels + (len(self.foreground_labels) if self.previous else 0)

    @property
    def n_outputs(self) -> int:
        """Channels that the network gives: classes, regions (no background), or background, interior, boundary."""
        if self.kind == "instances":
            return 3
        return len(self.classes) - (self.kind == "regions")

    @property
    def class_labels(self) -> tuple[tuple[int, ...], ...]:
        """Label values that belong to each class, background first; regions may share some."""
        if self.kind != "regions":
            return tuple((value,) for value in range(len(self.classes)))
        alone = self.region_order or range(1, self.n_outputs + 1)
        return ((0,), *(self.regions or ((value,) for value in alone)))

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """Label values but that of the background, in ascending order."""
        return tuple(sorted({value for values in self.class_labels[1:] for value in values}))

    @functools.cached_property
    def stages(self) -> tuple[Model, ...]:
        """The models to be run one after the other: of a cascade that of the lower resolution and this one, else this.

        Raises
        ------
        ModelError : a cascade was never saved, or the description of its first stage is broken
        """
        if not self.previous:
            return (self,)
        if self.folder is None:
            raise ModelError(f'Model "{self.name}" has no folder with its first stage; save it with '
                             "save_package first.")
        return (read_model(self.folder / PREVIOUS), self)

    def refuse_cascade(self, what: str) -> None:
        """Raise ModelError where the model is a cascade, for work that knows networks of images alone.

        Parameters
        ----------
        what : that cannot be done; "cannot" stands before it
        """
        if self.previous:
            raise ModelError(f"{self.title} is a cascade, whose network also takes the labels of another one, so it "
                             f"cannot {what}; choose a model of one resolution.")

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`; where it lies stays out."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)
                  if item.name not in ("folder", "weights_file")}
        values["plan"] = self.plan.to_json()
        values["members"] = [member.to_json() for member in self.members]
        values["adapters"] = [adapter.to_json() for adapter in self.adapters]
        return {name: value for name, value in values.items() if value or name not in _schema.OPTIONAL}

    @classmethod
    def from_json(cls, values: Any, where: str) -> Model:
        """The model that `to_json` wrote, every entry checked.

        Raises
        ------
        ModelError : an entry is missing, unknown, of the wrong type or out of range; the sentence begins with `where`
        """
        checked = _schema.check(values, where)
        plan = _schema.plan(checked.pop("plan"), checked["channels"], where)
        members = tuple(_member(member, checked["channels"], where) for member in checked.pop("members"))
        adapters = tuple(Adapter(**adapter | {"taught": _schema.signatures(adapter.get("taught", ()))})
                         for adapter in checked.pop("adapters"))
        model = cls(plan=plan, members=members, adapters=adapters, **checked)
        _check_regions(model, where)
        _check_groups(model, where)
        _check_cascade(model, where)
        return model

    @functools.cached_property
    def parts(self) -> dict[str, Model]:
        """Each network as a model of its own, by the name of its weights file; the first is `self`."""
        further = {f"weights_{index}.safetensors": member for index, member in enumerate(self.members, 1)}
        return {self.weights_file: self} | {file: dataclasses.replace(
            self, network=member.network, network_config=member.network_config, checksum=member.checksum, members=(),
            plan=self.plan if member.plan is None else member.plan,
            mirror_axes=self.mirror_axes if member.mirror_axes is None else member.mirror_axes,
            taught=member.taught, weights_file=file, decoder=self.decoder if member.decoder is None else member.decoder,
            adapters=tuple(adapter for adapter in self.adapters if adapter.network == member.checksum))
            for file, member in further.items()}

    @property
    def is_split(self) -> bool:
        """Whether what answers depends on the kind of picture; see `suited`."""
        return bool(self.taught) or any(adapter.is_on and adapter.taught for adapter in self.adapters)

    def suited(self, signature: Sequence[float]) -> Model:
        """The model as it answers for a kind of picture: with the network taught it, without adapters for other kinds.

        Parameters
        ----------
        signature : of the picture; see `mambaseg.models.domains.signature`
        """
        parts = (self, *self.formers)
        for part in parts:
            rivals = tuple(row for other in parts for row in other.taught if row not in part.taught)
            if not part.taught or is_like(signature, part.taught, self.trained_on, rivals):
                return part._with_adapters(tuple(
                    adapter for adapter in part.adapters
                    if not adapter.taught or is_like(signature, adapter.taught, self.trained_on)))
        return self

    def alone(self) -> Model:
        """What answers for the pictures that were taught last, without former networks and without adapters."""
        if not self.taught and not self.adapters:
            return self
        return dataclasses.replace(self, members=() if self.taught else self.members, taught=(), adapters=())

    def _with_adapters(self, adapters: tuple[Adapter, ...]) -> Model:
        """The model with some of its adapters; the same object for the same ones, so that its networks are kept."""
        if adapters == self.adapters:
            return self
        key = tuple(adapter.checksum for adapter in adapters)
        if key not in self._variants:
            self._variants[key] = dataclasses.replace(self, adapters=adapters)
        return self._variants[key]

    @functools.cached_property
    def _variants(self) -> dict[tuple[str, ...], Model]:
        return {}

    def build(self) -> nn.Module:
        """The first network in eval mode, float32, on the CPU, with the trained weights; of most models the only one.

        Raises
        ------
        ModelError : the model was never saved, or its weights do not fit the network
        """
        from mambaseg.models import _weights  # torch comes only when weights are wanted

        if self.folder is None:
            raise ModelError(f'Model "{self.name}" has no folder with weights; save it with save_package first.')
        network = _weights.build_with_weights(self, self.folder / self.weights_file)
        apply_adapters(self, network)
        return network

    def build_all(self) -> list[nn.Module]:
        """All networks of the ensemble, as `build` gives the first."""
        return [self.build(), *(part.build() for part in self._others)]

    @property
    def _others(self) -> list[Model]:
        """The further networks of the ensemble as models of their own."""
        return [part for part, is_former in self._further if not is_former]

    @property
    def formers(self) -> list[Model]:
        """The networks that answer for other kinds of pictures than those taught last, the newest first."""
        return [part for part, is_former in self._further if is_former]

    @property
    def _further(self) -> list[tuple[Model, bool]]:
        """Each network but the first as a model of its own, and whether it is a former one."""
        return [(part, member.is_former)
                for part, member in zip(list(self.parts.values())[1:], self.members, strict=True)]

    @functools.cached_property
    def built(self) -> nn.Module:
        """The network of `build`, made at the first use and kept, so that many images cost one loading."""
        return self.build()

    @functools.cached_property
    def built_all(self) -> list[nn.Module]:
        """The networks of `build_all`, made at the first use and kept."""
        return [self.built, *(part.build() for part in self._others)]

    @property
    def built_groups(self) -> list[tuple[Model, list[nn.Module]]]:
        """The networks of `built_all` by group, with a model whose plan and mirror axes are the group's."""
        groups: dict[int, tuple[Model, list[nn.Module]]] = {}
        numbers = [0, *(member.group for member in self.members if not member.is_former)]
        for number, part, network in zip(numbers, (self, *self._others), self.built_all, strict=True):
            groups.setdefault(number, (part, []))[1].append(network)
        return list(groups.values())


def _member(values: dict[str, Any], channels: tuple[str, ...], where: str) -> Member:
    """A member as `Member.to_json` wrote it."""
    own = dict(values)
    if "plan" in own:
        own["plan"] = _schema.plan(own["plan"], channels, where)
    if "mirror_axes" in own:
        own["mirror_axes"] = tuple(own["mirror_axes"])
    return Member(**own | {"taught": _schema.signatures(own.get("taught", ()))})


def _check_regions(model: Model, where: str) -> None:
    """Refuse regions or an order of painting that do not go with the outputs."""
    for name, values in (("regions", model.regions), ("region_order", model.region_order)):
        n_wanted = model.n_outputs if model.kind == "regions" else 0
        if values and len(values) != n_wanted:
            raise ModelError(f'{where}: "{name}" has {len(values)} entries, but the model has {n_wanted} regions; '
                             "get a fresh copy of the model.")


def _check_groups(model: Model, where: str) -> None:
    """Refuse mirror axes that a plan has not, plans that differ within a group, and 3-D members of a 2-D model."""
    plans = {0: (model.plan, model.mirror_axes)}
    for number, part in zip([0, *(member.group for member in model.members)], model.parts.values(), strict=True):
        if any(axis >= part.plan.ndim for axis in part.mirror_axes):
            raise ModelError(f'{where}: "mirror_axes" is {list(part.mirror_axes)}, but the plan has '
                             f"{part.plan.ndim} axes; get a fresh copy of the model.")
        if part.plan.ndim > model.plan.ndim or plans.setdefault(number, (part.plan, part.mirror_axes)) != (
                part.plan, part.mirror_axes):
            raise ModelError(f'{where}: "members" of group {number} have plans that differ or do not go with that of '
                             "the model; get a fresh copy of the model.")


def _check_cascade(model: Model, where: str) -> None:
    """Refuse a previous stage of what is no cascade: of objects, of pictures, of a network that takes images alone."""
    if not model.previous:
        return
    if model.kind == "instances" or model.plan.ndim < 3:
        raise ModelError(f'{where}: "previous" is for models that find classes in volumes, but this one finds '
                         f"{model.kind} in {model.plan.ndim}-D; get a fresh copy of the model.")
    taken = {part.network_config.get("in_channels") for part in model.parts.values()}
    if taken != {model.n_inputs}:
        raise ModelError(f"{where}: a cascade of {model.n_channels} channels and {len(model.foreground_labels)} labels "
                         f"has a network of {model.n_inputs} input channels, but here it has {taken.pop()}; get a "
                         "fresh copy of the model.")


def read_model(folder: Path) -> Model:
    """What `model.json` in `folder` says, without looking at the weights (and without torch).

    Raises
    ------
    ModelError : `model.json` is missing, too large, no JSON, or an entry is wrong
    """
    path = Path(folder) / "model.json"
    where = str(path)
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelError(f"{where} is larger than {_MAX_JSON_BYTES >> 20} MiB, so it is no model description; "
                             "get a fresh copy of the model.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no model.json, so it is no model package; give a bundled name "
                         "(mambaseg models) or a folder with model.json in it.") from error
    except OSError as error:
        raise ModelError(f"{where} cannot be read ({error.strerror}); check the folder's permissions.") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested beyond the parser
        raise ModelError(f"{where} is not valid JSON; get a fresh copy of the model.") from error
    return dataclasses.replace(Model.from_json(values, where), folder=Path(folder))
