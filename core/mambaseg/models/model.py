"""Model: everything `model.json` says, and the network it builds."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambaseg._errors import ModelError
from mambaseg.models import _schema
from mambaseg.plan import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KINDS", "Member", "Model", "read_model"]

KINDS = _schema.KINDS
_MAX_JSON_BYTES = 8 * 2**20  # a model.json is a few KB; more is not one of ours


@dataclass(frozen=True)
class Member:
    """A further network of an ensemble; shares the plan, classes and channels of its model.

    Parameters
    ----------
    network, network_config : as in `Model`
    checksum : SHA-256 of its weights, ``weights_<k>.safetensors`` with k from 1, hexadecimal; empty: not saved
    """

    network: str
    network_config: dict[str, Any]
    checksum: str = ""


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
    members : further networks whose logits are averaged with those of the first; `model.json` has them only where
        there are any
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

    @property
    def n_channels(self) -> int:
        """Channels that the network takes."""
        return len(self.channels)

    @property
    def n_outputs(self) -> int:
        """Channels that the network gives: classes, regions (no background), or background, interior, boundary."""
        if self.kind == "instances":
            return 3
        return len(self.classes) - (self.kind == "regions")

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`; `folder` stays out."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "folder"}
        values["plan"] = self.plan.to_json()
        members = values.pop("members")
        return values | {"members": [dataclasses.asdict(member) for member in members]} if members else values

    @classmethod
    def from_json(cls, values: Any, where: str) -> Model:
        """The model that `to_json` wrote, every entry checked.

        Raises
        ------
        ModelError : an entry is missing, unknown, of the wrong type or out of range; the sentence begins with `where`
        """
        checked = _schema.check(values, where)
        plan = _schema.plan(checked.pop("plan"), checked["channels"], where)
        if any(axis >= plan.ndim for axis in checked["mirror_axes"]):
            raise ModelError(f'{where}: "mirror_axes" is {list(checked["mirror_axes"])}, but the plan has '
                             f"{plan.ndim} axes; get a fresh copy of the model.")
        members = tuple(Member(**member) for member in checked.pop("members"))
        return cls(plan=plan, members=members, **checked)

    @property
    def parts(self) -> dict[str, Model]:
        """Each network of the ensemble as a model of its own, by the name of its weights file; the first is `self`."""
        alone = {f"weights_{index}.safetensors": dataclasses.replace(
            self, network=member.network, network_config=member.network_config, checksum=member.checksum, members=())
            for index, member in enumerate(self.members, 1)}
        return {"weights.safetensors": self, **alone}

    def build(self) -> nn.Module:
        """The first network in eval mode, float32, on the CPU, with the trained weights; of most models the only one.

        Raises
        ------
        ModelError : the model was never saved, or its weights do not fit the network
        """
        return self._build("weights.safetensors", self)

    def build_all(self) -> list[nn.Module]:
        """All networks of the ensemble, as `build` gives the first."""
        return [self._build(file, part) for file, part in self.parts.items()]

    def _build(self, file: str, part: Model) -> nn.Module:
        from mambaseg.models import _weights  # torch comes only when weights are wanted

        if self.folder is None:
            raise ModelError(f'Model "{self.name}" has no folder with weights; save it with save_package first.')
        return _weights.build_with_weights(part, self.folder / file)

    @functools.cached_property
    def built(self) -> nn.Module:
        """The network of `build`, made at the first use and kept, so that many images cost one loading."""
        return self.build()

    @functools.cached_property
    def built_all(self) -> list[nn.Module]:
        """The networks of `build_all`, made at the first use and kept."""
        return [self.built, *(self._build(file, part) for file, part in list(self.parts.items())[1:])]


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
