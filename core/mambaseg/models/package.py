"""The model package: a folder that is saved whole or not at all, and checked before anything in it is used."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mambaseg._errors import ModelError
from mambaseg.io.atomic import atomic_folder, sync_folder
from mambaseg.models import _weights
from mambaseg.models.alike import check_alike
from mambaseg.models.card import card
from mambaseg.models.folder import PREVIOUS, copy_package
from mambaseg.models.model import Member, Model, read_model
from mambaseg.nets.registry import ANY_SIZE

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FILES", "Model", "check_package", "check_previous", "load_package", "make_test_input", "run_test",
           "save_package"]

# Of a package with one network; further ones are in weights_1.safetensors, weights_2.safetensors, ...
FILES = ("weights.safetensors", "test_input.npy", "test_output.npy", "README.md", "model.json")
_FURTHER_WEIGHTS = "weights_[0-9]*.safetensors"
_READY = ".ready"  # a complete new version inside an old package, about to take its place


def make_test_input(model: Model, seed: int = 0, sides: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Smooth random blobs of about unit variance: an input that belongs to nobody.

    Parameters
    ----------
    model : gives the number of channels and the size
    seed : same seed, same values
    sides : voxels per axis; None: the smallest size that shows every layer at work (two voxels at the bottom), or the
        patch where a network takes nothing else

    Returns
    -------
    float32, (1, channel, *spatial); as the network sees prepared pictures; exact in float16, so that it can be stored
    so
    """
    from scipy.ndimage import gaussian_filter  # only here, and half a second to import

    rng = np.random.default_rng(seed)
    sides = _test_sides(model) if sides is None else tuple(sides)
    values = np.empty((1, model.n_inputs, *sides), np.float32)
    for channel in range(model.n_inputs):
        field = gaussian_filter(rng.standard_normal(sides), sigma=[max(1.0, side / 24) for side in sides], mode="wrap")
        values[0, channel] = (field - field.mean()) / max(float(field.std()), 1e-6)
    return values.astype(np.float16).astype(np.float32)


def run_test(network: nn.Module, test_input: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of the network for a test input; the full-resolution ones where it gives several.

    Parameters
    ----------
    network : in eval mode, float32, CPU
    test_input : any float dtype, (1, channel, *spatial)

    Returns
    -------
    float32, (1, output, *spatial)
    """
    with torch.inference_mode():
        output = network(torch.from_numpy(np.ascontiguousarray(test_input, np.float32)))
    logits: Tensor = output[0] if isinstance(output, list | tuple) else output
    return logits.float().numpy()


def save_package(folder: Path | str, model: Model, state_dict: Mapping[str, Tensor],
                 test_input: NDArray[Any] | None = None, test_output: NDArray[Any] | None = None, *,
                 half: bool = False, members: Sequence[Mapping[str, Tensor]] = (),
                 previous: Model | None = None) -> Model:
    """Save a model as a package; whatever moment the program dies, the old package or the whole new one is there.

    Parameters
    ----------
    folder : where to; made if absent. A package in it is replaced, other files in it stay
    model : what to write; its `folder` and `checksum` are ignored
    state_dict : of the network that `model.network` and `model.network_config` build
    members : state dictionaries of the further networks of an ensemble, in the order of ``model.members``; where the
        model names none, they are networks like the first
    test_input : (1, channel, *spatial); None: `make_test_input`
    test_output : logits for `test_input`, (1, output, *spatial); None: computed with the weights as stored
    half : store floating-point weights as float16 (loaded as float32 again)
    previous : saved model of the first stage of a cascade, whose package is copied into this one; None: that of a
        `model` that is a cascade already

    Returns
    -------
    The model with `folder` and `checksum` set

    Raises
    ------
    UserError : the weights do not fit the network, an entry of the model is wrong, or the folder cannot be written
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file, so no model package can be written there; give a folder.")
    _finish(folder)
    with atomic_folder(folder / _READY if folder.is_dir() else folder) as staging:
        model = _with_previous(model, model.stages[0] if model.previous and previous is None else previous, staging)
        saved = _write_files(staging, _with_members(model, len(members)), [state_dict, *members], test_input,
                             test_output, half)
    _finish(folder)
    return dataclasses.replace(saved, folder=folder)


def load_package(folder: Path | str) -> Model:
    """The model of a package folder, after every check that needs no computation.

    Raises
    ------
    ModelError : a file is missing, broken, or does not fit the others; one sentence that names the file
    """
    folder = Path(folder)
    _finish(folder)
    return _checked(folder)


def _checked(folder: Path) -> Model:
    """The model of a complete package; see `load_package`."""
    model = read_model(folder)
    if model.previous:
        _check_previous(model, folder / PREVIOUS)
    for file, part in model.parts.items():
        weights = folder / file
        _weights.check_weights(weights, part)
        if _weights.sha256(weights) != part.checksum:
            raise ModelError(f"{weights} is not what it was when the model was saved (its checksum differs from the "
                             "one in model.json); get a fresh copy of the model.")
    return model


def check_package(model: Model) -> float:
    """Largest absolute difference between the stored test output and the one computed here.

    Parameters
    ----------
    model : loaded from a folder

    Returns
    -------
    Difference of logits; 0 is perfect, below 1e-3 harmless (other processors round differently)

    Raises
    ------
    ModelError : the test arrays are missing, broken or of the wrong shape
    """
    if model.folder is None:
        raise ModelError(f'Model "{model.name}" has no folder with a test to run; save it with save_package first.')
    given = _read_array(model.folder / "test_input.npy", (1, model.n_inputs, *_test_sides(model)), may_be_smaller=True)
    expected = _read_array(model.folder / "test_output.npy", (1, model.n_outputs, *given.shape[2:]))
    difference = np.abs(_mean_test(model, given) - expected.astype(np.float32))
    own = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return max(own, *map(check_package, model.stages[:-1])) if model.previous else own


def _test_sides(model: Model) -> tuple[int, ...]:
    """Voxels per axis of the test arrays."""
    plan = model.plan
    if model.network not in ANY_SIZE:
        return plan.patch_size
    strides = [math.prod(steps) for steps in zip(*plan.strides, strict=True)]
    return tuple(min(side, 2 * stride) for side, stride in zip(plan.patch_size, strides, strict=True))


def _with_previous(model: Model, previous: Model | None, folder: Path) -> Model:
    """The model as a cascade that begins with `previous`, which is copied into the folder; itself for None."""
    if previous is None:
        return dataclasses.replace(model, previous="")
    check_previous(model, previous)
    copy_package(previous, folder / PREVIOUS)
    return dataclasses.replace(model, previous=_weights.sha256(folder / PREVIOUS / "model.json"))


def check_previous(model: Model, previous: Model) -> None:
    """Refuse a model that cannot be the first stage of a cascade.

    Raises
    ------
    ModelError : it finds other classes or takes other images, is a cascade itself, or learned from corrections
    """
    check_alike(model, previous)
    previous.refuse_cascade("be the first stage of another")
    if previous.taught or previous.adapters:
        raise ModelError(f"{previous.name} has learned from corrections, so it answers in more than one way; give the "
                         "model that it was made from.")


def _check_previous(model: Model, folder: Path) -> None:
    """Check the package of a cascade's first stage as `load_package` checks any, and that it is the right one."""
    check_previous(model, read_model(folder))  # no cascade, so that this ends
    _checked(folder)
    if _weights.sha256(folder / "model.json") != model.previous:
        raise ModelError(f"{folder} is not what it was when the model was saved (the checksum of its model.json "
                         "differs from the one of the cascade); get a fresh copy of the model.")


def _with_members(model: Model, n_members: int) -> Model:
    """The model with as many members as there are weights for."""
    members = model.members or (Member(model.network, model.network_config),) * n_members
    if len(members) != n_members:
        raise ModelError(f'Model "{model.name}" names {len(members)} further networks, but weights of {n_members} were '
                         "given; give a state dictionary for each.")
    return dataclasses.replace(model, members=members)


def _mean_test(model: Model, test_input: NDArray[Any]) -> NDArray[np.float32]:
    """Logits for a test input, averaged over the networks of an ensemble; one of them in memory at a time.

    A network that wants another size sees the middle of the input, or the input in the middle of zeros; a 2-D network
    among 3-D ones sees the middle slice, and its logits count for every slice.
    """
    sides = test_input.shape[2:]
    total = np.zeros((1, model.n_outputs, *sides), np.float32)
    for file, part in model.parts.items():
        network = _weights.build_with_weights(part, (model.folder or Path()) / file)
        is_flat = part.plan.ndim < len(sides)
        seen = test_input[:, :, sides[0] // 2] if is_flat else test_input
        logits = _centred(run_test(network, _centred(seen, _test_sides(part))), sides[-part.plan.ndim:])
        total += logits[:, :, None] if is_flat else logits
    total /= len(model.parts)
    return total


def _centred(values: NDArray[Any], sides: Sequence[int]) -> NDArray[Any]:
    """An array whose last axes are cut, or filled up with zeros, on both sides alike."""
    for axis, side in enumerate(sides, values.ndim - len(sides)):
        missing = side - values.shape[axis]
        pads = [(0, 0)] * values.ndim
        pads[axis] = (max(0, missing) // 2, max(0, missing) - max(0, missing) // 2)
        values = np.pad(values, pads).take(range(max(0, -missing) // 2, max(0, -missing) // 2 + side), axis)
    return values


def _write_files(folder: Path, model: Model, states: Sequence[Mapping[str, Tensor]], test_input: NDArray[Any] | None,
                 test_output: NDArray[Any] | None, half: bool) -> Model:
    """Write all files; returns the model as it will be loaded."""
    checksums = []
    for file, state_dict in zip(model.parts, states, strict=True):
        _weights.write_weights(folder / file, state_dict, half)
        checksums.append(_weights.sha256(folder / file))
    members = tuple(dataclasses.replace(member, checksum=checksum)
                    for member, checksum in zip(model.members, checksums[1:], strict=True))
    described = dataclasses.replace(model, checksum=checksums[0], members=members, adapters=())
    values = json.loads(json.dumps(described.to_json(), allow_nan=False))
    described = dataclasses.replace(Model.from_json(values, "The model to save"), folder=folder)
    for file, part in described.parts.items():
        _weights.check_weights(folder / file, part)
    if test_input is None:
        test_input = make_test_input(described)
    if test_output is None:
        test_output = _mean_test(described, test_input)
    stored = test_input.astype(np.float16)
    np.save(folder / "test_input.npy", stored if np.array_equal(stored, test_input) else test_input, allow_pickle=False)
    np.save(folder / "test_output.npy", test_output.astype(np.float32), allow_pickle=False)
    (folder / "README.md").write_text(card(described), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return described


def _finish(folder: Path) -> None:
    """Move a complete new version, of this program or of one that died just then, into its place."""
    ready = folder / _READY
    if not ready.is_dir():
        return
    further = sorted(path.name for path in ready.glob(_FURTHER_WEIGHTS))
    try:
        if (ready / PREVIOUS).is_dir():
            if (folder / PREVIOUS).is_dir():
                shutil.rmtree(folder / PREVIOUS)
            (ready / PREVIOUS).rename(folder / PREVIOUS)
        for name in (*further, *FILES):
            if (ready / name).exists():
                (ready / name).replace(folder / name)
        known = read_model(folder).parts
        for path in folder.glob(_FURTHER_WEIGHTS):  # of a former, larger ensemble
            if path.name not in known:
                path.unlink()
        ready.rmdir()
        sync_folder(folder)
    except OSError as error:
        raise ModelError(f"The replacement of {folder} was interrupted and cannot be finished ({error.strerror}); "
                         "make the folder writable and try again.") from error


def _read_array(path: Path, shape: tuple[int, ...], *, may_be_smaller: bool = False) -> NDArray[Any]:
    """A test array; its header is checked before its values are read, and nothing is unpickled.

    Parameters
    ----------
    may_be_smaller : along spatial axes; the networks then see it in the middle of zeros, see `_centred`
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read ({error}); get a fresh copy of the model.") from error
    fits = array.shape == shape or (may_be_smaller and array.ndim == len(shape) and array.shape[:2] == shape[:2]
                                    and all(0 < side <= most for side, most in zip(array.shape, shape, strict=True)))
    if not fits or array.dtype.kind != "f":
        raise ModelError(f"{path} holds {array.dtype} values of shape {array.shape}, but numbers of shape {shape} "
                         "were expected; get a fresh copy of the model.")
    return np.asarray(array)
