"""Weights in safetensors files: written, checked against the network before memory is taken, and loaded."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mambaseg import nets
from mambaseg._errors import MissingPackageError, ModelError, UserError

if TYPE_CHECKING:
    from mambaseg.models.model import Model

__all__ = ["build_with_weights", "check_weights", "sha256", "write_weights"]

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_MAX_HEADER_BYTES = 16 * 2**20
_FRESH = "get a fresh copy of the model"


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_weights(path: Path, state: Mapping[str, torch.Tensor], half: bool) -> None:
    """Write a state dictionary; floating-point entries as float16 where `half`, else float32."""
    dtype = torch.float16 if half else torch.float32
    tensors = {key: (value.detach().to("cpu", dtype) if value.is_floating_point() else value.detach().cpu())
               .contiguous().clone() for key, value in state.items()}
    path.write_bytes(save(tensors))  # safetensors' own writer makes a file that only its owner may read


def check_weights(path: Path, model: Model) -> None:
    """Check the header of a weights file for consistency and against the network's names and shapes.

    Nothing of the size that the file or the description claims is allocated.

    Raises
    ------
    ModelError : the file is missing, cut off or inconsistent, or does not fit the network
    """
    shapes = _header_shapes(path)
    network = _network(model, "meta", path)
    _check_patch(network, model, path)
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    missing, extra = sorted(set(wanted) - set(shapes)), sorted(set(shapes) - set(wanted))
    if missing or extra:
        first = f'lacks "{missing[0]}"' if missing else f'has "{extra[0][:100]}" too many'
        raise ModelError(f"{path} does not fit the network {model.network}: it {first} "
                         f"({len(missing)} entries missing, {len(extra)} unknown); {_FRESH}.")
    for key, shape in wanted.items():
        if shapes[key] != shape:
            raise ModelError(f'{path} does not fit the network {model.network}: "{key}" has shape {shapes[key]}, '
                             f"but {shape} was expected; {_FRESH}.")


def build_with_weights(model: Model, path: Path) -> torch.nn.Module:
    """The network in eval mode, float32, on the CPU, with the weights of `path`.

    Raises
    ------
    ModelError : the weights are missing, broken or do not fit
    """
    check_weights(path, model)
    network = _network(model, "cpu", path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); {_FRESH}.") from error
    network.load_state_dict({key: value.float() if value.is_floating_point() else value
                             for key, value in state.items()})
    return network.float().eval()


def _network(model: Model, device: str, path: Path) -> torch.nn.Module:
    """The network with random ("cpu") or without any ("meta") weights; unknown names and settings as ModelError."""
    description = path.parent / "model.json"
    try:
        with torch.device(device):
            return nets.build(model.network, **model.network_config)
    except MissingPackageError:  # says what to install
        raise
    except UserError as error:  # an unknown network; the message names the nearest
        raise ModelError(f"{description}: {error}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f'{description}: "network_config" does not suit the network {model.network} '
                         f"({str(error).splitlines()[0]}); {_FRESH}.") from error


def _check_patch(network: torch.nn.Module, model: Model, path: Path) -> None:
    """Refuse a patch that the network cannot take, before a user meets it as an error of shapes."""
    rule = getattr(network, "size_rule", None)
    try:
        if rule is not None:
            rule.check(model.plan.patch_size)
    except ValueError as error:
        raise ModelError(f'{path.parent / "model.json"}: "plan.patch_size" does not suit the network {model.network} '
                         f"({str(error).rstrip('.')}); {_FRESH}.") from error


def _header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape by name from a safetensors header whose every offset was checked against the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            n_header = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if n_header > min(_MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{path} is cut off or no safetensors file; {_FRESH}.")
            header = json.loads(file.read(n_header))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); {_FRESH}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has an unreadable header; {_FRESH}.") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path} has an unreadable header; {_FRESH}.")
    header.pop("__metadata__", None)
    _check_offsets(path, header, size - 8 - n_header)
    return {key: tuple(entry["shape"]) for key, entry in header.items()}


def _check_offsets(path: Path, header: dict[str, Any], n_bytes: int) -> None:
    """Check that the tensors lie one after the other, each as long as its shape says, and fill the file exactly."""
    for key, entry in header.items():
        if not _is_entry(entry):
            raise ModelError(f'{path}: the header entry "{key[:100]}" is malformed; {_FRESH}.')
    position = 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != position or stop - start != math.prod(entry["shape"]) * _ITEM_BYTES[entry["dtype"]]:
            raise ModelError(f'{path}: the bytes of "{key[:100]}" overlap or do not match its shape; {_FRESH}.')
        position = stop
    if position != n_bytes:
        raise ModelError(f"{path} holds {n_bytes} bytes of weights, but its header says {position}; {_FRESH}.")


def _is_entry(entry: Any) -> bool:
    return (isinstance(entry, dict) and entry.get("dtype") in _ITEM_BYTES
            and _are_counts(entry.get("shape")) and _are_counts(entry.get("data_offsets"))
            and len(entry["data_offsets"]) == 2)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) and 0 <= value < 2**48 for value in values)
