"""Adapters: small named changes to what a model answers, learned from corrections, that can be taken off again."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambaseg._errors import ModelError
from mambaseg.io.atomic import atomic_path
from mambaseg.models.folder import copy_package, package_folder, write_description

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mambaseg.models.domains import Signatures
    from mambaseg.models.model import Model

__all__ = ["Adapter", "adapter_file", "apply_adapters", "read_steps", "remove_adapter", "save_adapter",
           "switch_adapter"]

_MAX_SIGMA = 50.0  # voxels; a wider blur is none of ours


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What `model.json` says of an adapter.

    Parameters
    ----------
    name : short, of letters, digits and -_.
    checksum : SHA-256 of its file
    is_on : whether the model is used with it
    training : record of what it was learned from
    network : checksum of the weights whose answer it changes; empty: those of the model's first network
    taught : signatures of the pictures it was learned from; it is used for pictures like these. Empty: for all
    """

    name: str
    checksum: str
    is_on: bool = True
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: str = ""
    taught: Signatures = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`, without what is as usual."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value or name not in ("network", "taught")}


def adapter_file(checksum: str) -> str:
    """Name of the file with an adapter's changes: by what is in it, so that a new version never meets an old one."""
    return f"adapter-{checksum[:16]}.safetensors"


def apply_adapters(model: Model, network: nn.Module) -> None:
    """Let the network answer as the adapters that are on make it answer, one after the other, in place.

    Raises
    ------
    ModelError : a file is missing, changed, or does not fit the network
    """
    if not model.adapters:
        return
    from mambaseg.models.taps import add_step, tap_width

    shape = (model.n_outputs, model.n_outputs + tap_width(network, model) + 1)
    for adapter in model.adapters:
        if not adapter.is_on or adapter.network not in ("", model.checksum):
            continue
        for step in read_steps(model, adapter):
            weights, sigma = step.get("weights"), step.get("sigma")
            if (weights is None or sigma is None or weights.shape != shape or sigma.numel() != 1
                    or not weights.isfinite().all() or not 0 <= float(sigma) <= _MAX_SIGMA):
                raise ModelError(f'The adapter "{adapter.name}" was made for another model than {model.title}, or by '
                                 "an older version that looked at less; remove it (mambaseg models adapter FOLDER "
                                 f"{adapter.name} --set removed) and correct again.")
            add_step(network, model, step)


def read_steps(model: Model, adapter: Adapter) -> list[dict[str, Tensor]]:
    """What an adapter does to the logits, step after step; see `mambaseg.models.taps.add_step`.

    Raises
    ------
    ModelError : its file is missing, broken or not the one that was saved
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from mambaseg.models._weights import sha256

    path = package_folder(model) / adapter_file(adapter.checksum)
    try:
        if sha256(path) != adapter.checksum:
            raise ModelError(f'{path} is not what it was when the adapter "{adapter.name}" was saved; remove the '
                             "adapter or get a fresh copy of the model.")
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f'{path} with the adapter "{adapter.name}" cannot be read ({error}); remove the adapter or '
                         "get a fresh copy of the model.") from error
    steps: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        number, _, name = key.partition(".")
        steps.setdefault(number, {})[name] = value
    return [steps[number] for number in sorted(steps, key=lambda text: (len(text), text))]


def save_adapter(model: Model, name: str, steps: Sequence[Mapping[str, Tensor]], training: dict[str, Any],
                 folder: Path | str | None = None, network: str = "", taught: Signatures = ()) -> Model:
    """The model with an adapter of this name, on; one that was there is replaced.

    Parameters
    ----------
    model : saved
    network, taught : as in `Adapter`
    steps : what is done to the logits; see `mambaseg.models.taps.add_step`
    training : record of plain values
    folder : where the model with its adapter goes, as a copy; None: into the model's own folder

    Raises
    ------
    UserError : the name is unsuitable, the model was never saved or its folder cannot be written
    """
    from safetensors.torch import save

    if not re.fullmatch(r"[\w.()+-]{1,100}", name):
        raise ModelError(f'"{name}" cannot be an adapter\'s name; use letters, digits and -_.()+.')
    model = _in_folder(model, folder)
    content = save({f"{number}.{key}": value.float().contiguous()
                    for number, step in enumerate(steps) for key, value in step.items()})
    added = Adapter(name, hashlib.sha256(content).hexdigest(), True, training, network, taught)
    with atomic_path(package_folder(model) / adapter_file(added.checksum), len(content)) as temporary:
        temporary.write_bytes(content)
    return _describe(model, (*(adapter for adapter in model.adapters if adapter.name != name), added))


def switch_adapter(model: Model, name: str, is_on: bool) -> Model:
    """The model with an adapter switched on or off.

    Raises
    ------
    ModelError : it has no adapter of this name
    """
    _find(model, name)
    return _describe(model, tuple(dataclasses.replace(adapter, is_on=is_on) if adapter.name == name else adapter
                                  for adapter in model.adapters))


def remove_adapter(model: Model, name: str) -> Model:
    """The model without an adapter; its file is removed.

    Raises
    ------
    ModelError : it has no adapter of this name
    """
    _find(model, name)
    return _describe(model, tuple(adapter for adapter in model.adapters if adapter.name != name))


def _find(model: Model, name: str) -> None:
    if name not in [adapter.name for adapter in model.adapters]:
        known = ", ".join(adapter.name for adapter in model.adapters) or "none"
        raise ModelError(f'{model.title} has no adapter "{name}"; there are: {known}.')


def _in_folder(model: Model, folder: Path | str | None) -> Model:
    """The model, or its copy in another folder, which appears whole or not at all."""
    if folder is None or Path(folder).resolve() == package_folder(model).resolve():
        return model
    copy_package(model, folder)
    return dataclasses.replace(model, folder=Path(folder).resolve())


def _describe(model: Model, adapters: tuple[Adapter, ...]) -> Model:
    """Write `model.json` anew, whole or not at all: the one moment at which a change of adapters happens."""
    changed = dataclasses.replace(model, adapters=adapters)
    write_description(changed)
    known = {adapter_file(adapter.checksum) for adapter in adapters}
    for path in package_folder(model).glob(adapter_file("*")):  # of adapters that were replaced or removed
        if path.name not in known:
            path.unlink()
    return changed
