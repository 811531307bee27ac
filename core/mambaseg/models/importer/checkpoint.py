"""The one door for `.pth` and `.pt` files, which are pickles: nothing in them is run, and only weights come in.

A pickle can ask for any function by name. torch's own reader for weights allows what tensors need; to that comes the
short list below of what nnU-Net's files name besides. Nothing of the latter is wanted, so a stand-in takes its place.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mambaseg._errors import ModelError

__all__ = ["Checkpoint", "read_checkpoint", "required_torch"]

_MAX_FILE_BYTES = 8 * 2**30  # the largest official file, optimiser included, is about 1 GB
_MAX_RATIO = 4  # torch stores tensors unpacked, so a file that shrinks more than this was made to be a trap
_MAX_ENTRIES = 100_000
_MAX_PICKLE_BYTES = 64 * 2**20  # names and shapes without the tensors; official ones have less than 1 MB
_LEAST_HARMLESS_NUMBER = 2**24
_MAX_PLAIN_NODES = 200_000
_WEIGHTS_UNDER = ("network_weights", "model_state_dict", "state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.", "network.", "model.")
_THOP = ("total_ops", "total_params")  # buffers that counting multiply-adds leaves behind
_PLAIN = "ask the authors for the weights alone: torch.save(network.state_dict(), FILE)"

# What a hostile or broken file makes torch and pickle raise
_BROKEN = (pickle.UnpicklingError, RuntimeError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError,
           AssertionError, EOFError, MemoryError, ImportError, struct.error, zipfile.BadZipFile)


class _Ignored:
    """Stands in for a value that is named in a file and not wanted; takes anything and keeps nothing."""

    def __init__(self, *_: object) -> None:
        """Forget the arguments."""

    def __setstate__(self, _: object) -> None:
        """Forget the state."""


_ALLOWED = tuple((_Ignored, name) for name in (
    "numpy.dtype", "numpy.ndarray",  # numpy numbers in nnU-Net's "logging" and optimiser
    "numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct",  # the same, written by numpy 1
    "_codecs.encode",  # how they keep their bytes
    "pathlib.PosixPath", "pathlib.WindowsPath",  # folders in "init_args"
))


@dataclass(frozen=True)
class Checkpoint:
    """What is kept of a checkpoint file.

    Parameters
    ----------
    path : the file
    weights : official key -> tensor on the CPU; prefixes that all keys share are gone
    plans, dataset : content of nnU-Net's `plans.json` and `dataset.json` where the file holds them; plain values
    configuration : of the plans, "2d" or "3d_fullres"; empty: not known
    trainer : nnU-Net's class name, a hint for people; empty: none
    mirror_axes : spatial axes that training mirrored
    """

    path: Path
    weights: dict[str, Tensor]
    plans: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    configuration: str = ""
    trainer: str = ""
    mirror_axes: tuple[int, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by official key."""
        return {key: tuple(value.shape) for key, value in self.weights.items()}


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Weights, and nnU-Net's plan where there is one, of a `.pth` or `.pt` file; nothing in the file is run.

    Raises
    ------
    ModelError : no such file, no checkpoint, damaged, made to harm, or torch is too old to read it safely
    """
    required_torch(torch.__version__)
    path = Path(path)
    try:
        with path.open("rb") as file:
            _check_sizes(path, file)
            content = _load(path, file)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); give the checkpoint file (.pth) or an "
                         "nnU-Net model folder.") from error
    weights = _weights(path, content)
    about = content if isinstance(content, dict) else {}
    arguments = about.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    axes = about.get("inference_allowed_mirroring_axes")
    return Checkpoint(
        path, weights, _plain_dict(path, arguments.get("plans")), _plain_dict(path, arguments.get("dataset_json")),
        _text(arguments.get("configuration")), _text(about.get("trainer_name")),
        tuple(axis for axis in axes if isinstance(axis, int)) if isinstance(axes, tuple | list) else ())


def required_torch(version: str) -> None:
    """Raise ModelError where torch is older than 2.10, whose reader of weights has known holes."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    if numbers < [2, 10]:
        raise ModelError(f"torch {version} is installed, but only 2.10 and later read a checkpoint safely; update it: "
                         'pip install "torch>=2.10"')


def _check_sizes(path: Path, file: BinaryIO) -> None:
    """Refuse what would fill the memory, before any of it is unpacked."""
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise ModelError(f"{path} is empty; get a fresh copy of the checkpoint.")
    if n_bytes > _MAX_FILE_BYTES:
        raise ModelError(f"{path} has {n_bytes / 1e9:.1f} GB, but a checkpoint of these networks has at most "
                         f"{_MAX_FILE_BYTES / 1e9:.1f}; give the checkpoint alone.")
    try:  # what zipfile, pickletools and struct raise at a broken or hostile file
        _check_form(path, file, n_bytes)
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, LookupError, MemoryError, OverflowError,
            struct.error) as error:
        raise _unreadable(path, error) from error
    file.seek(0)


def _check_form(path: Path, file: BinaryIO, n_bytes: int) -> None:
    if zipfile.is_zipfile(file):
        _check_zip(path, file, n_bytes)
    elif _starts_as_pickle(file):
        for index in range(4):  # of torch before 1.6: magic number, version, system, and then what was saved
            if file.tell() < n_bytes:
                _check_numbers(path, file, n_bytes if index == 3 else None)
    else:
        raise ModelError(f"{path} is no checkpoint that torch has saved; give the .pth file or an nnU-Net model "
                         "folder.")


def _check_zip(path: Path, file: BinaryIO, n_bytes: int) -> None:
    """Check the sizes in a zip's directory, and the numbers in its pickle."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > _MAX_RATIO * n_bytes + _LEAST_HARMLESS_NUMBER or len(entries) > _MAX_ENTRIES:
            raise ModelError(f"{path} has {n_bytes / 1e6:.1f} MB, but {unpacked / 1e6:,.0f} MB in {len(entries):,} "
                             f"parts are packed into it, as in no checkpoint; it was not opened; {_PLAIN}.")
        pickles = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise ModelError(f"{path} is a zip file, but no checkpoint that torch has saved; give the .pth file.")
        _check_numbers(path, archive.read(pickles[0]), unpacked)


def _starts_as_pickle(file: BinaryIO) -> bool:
    """Whether a file is a pickle of protocol 2 or later, as torch before 1.6 wrote them; goes back to its start."""
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    return start in {b"\x80" + bytes([protocol]) for protocol in range(2, 6)}


def _check_numbers(path: Path, content: BinaryIO | bytes, n_bytes: int | None) -> None:
    """Go through the instructions of one pickle without following them; refuse sizes that the file cannot hold."""
    limit = None if n_bytes is None else max(n_bytes, _LEAST_HARMLESS_NUMBER)
    for _, value, _ in pickletools.genops(content):
        if limit is not None and isinstance(value, int) and abs(value) > limit:
            raise ModelError(f"{path} speaks of 2^{value.bit_length() - 1} values, which so small a file cannot hold; "
                             f"it is damaged or made to fill the memory, and was not opened; {_PLAIN}.")


def _load(path: Path, file: BinaryIO) -> Any:
    """What the file holds, read by torch with the allow-list."""
    try:
        with torch.serialization.safe_globals(list(_ALLOWED)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the form's age; what matters is raised
            return torch.load(file, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: BaseException) -> ModelError:
    """Why torch would not read a file, in a sentence."""
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"unrecognized function <([^>]+)>", str(error))
    if wanted:
        return ModelError(f'{path} asks for "{wanted[1]}" to be called, which weights have no need of; it was refused, '
                          f"and nothing in the file was run; {_PLAIN}.")
    if isinstance(error, pickle.UnpicklingError):  # torch's own text is advice to open the door wider
        error = ValueError("its instructions are damaged, or such as no file of weights has")
    return _unreadable(path, error)


def _unreadable(path: Path, error: BaseException) -> ModelError:
    reason = str(error).strip().splitlines()[0][:160].rstrip(".") if str(error).strip() else type(error).__name__
    return ModelError(f"{path} cannot be read as a checkpoint ({reason}); nothing in it was run; get a fresh copy, or "
                      f"{_PLAIN}.")


def _weights(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dictionary, wherever the file keeps it, without prefixes that all keys share."""
    state = _find_state(content)
    if state is None:
        raise ModelError(f"{path} holds no weights: neither a dictionary of tensors nor one under "
                         f"{', '.join(_WEIGHTS_UNDER)}; give a checkpoint of one of the supported networks.")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f'{path}: the weight "{key[:100]}" is no tensor but {type(value).__name__}; {_PLAIN}.')
        _check_tensor(path, key, value)
    state = {key: value.detach() for key, value in state.items() if key.split(".")[-1] not in _THOP}
    return _without_prefix(state)


def _find_state(content: Any) -> Mapping[str, Any] | None:
    """The dictionary of weights in what a file holds; None: there is none."""
    if not isinstance(content, dict):
        return None
    for name in _WEIGHTS_UNDER:
        if isinstance(content.get(name), dict) and content[name]:
            return _named(content[name])
    return _named(content) if content and all(isinstance(value, Tensor) for value in content.values()) else None


def _named(state: dict[Any, Any]) -> Mapping[str, Any] | None:
    return state if all(isinstance(key, str) for key in state) else None


def _check_tensor(path: Path, key: str, value: Tensor) -> None:
    """Refuse tensors that claim more than the file holds, or that are no plain arrays."""
    is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not is_plain or value.is_complex():
        raise ModelError(f'{path}: the weight "{key[:100]}" is no plain array of numbers; {_PLAIN}.')
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ModelError(f'{path}: the weight "{key[:100]}" claims the shape {tuple(value.shape)}, but holds only '
                         f"{value.untyped_storage().nbytes()} bytes; it is damaged or made to fill the memory.")


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the wrappers' prefixes, taken off as long as all keys share one."""
    while state:
        prefix = next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _text(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""


def _plain_dict(path: Path, value: Any) -> dict[str, Any]:
    """A dictionary of texts, numbers, lists and dictionaries; empty where the file has none."""
    if not isinstance(value, dict):
        return {}
    budget = [_MAX_PLAIN_NODES]  # references in a pickle can make a small file a tree without end
    try:
        plain: dict[str, Any] = _plain(value, budget, 0)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: the plan in it cannot be understood ({error}); give the whole nnU-Net model folder, "
                         "with plans.json and dataset.json.") from error
    return plain


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 20:
        raise ValueError("it has no end")
    if isinstance(value, dict):
        return {str(key): _plain(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, budget, depth + 1) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return None  # a stand-in or a tensor: no plan needs it
