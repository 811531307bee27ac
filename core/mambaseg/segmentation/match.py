"""Whether an image suits a model, and what is converted so that it does; every conversion is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mambaseg._errors import ImageError, ModelError
from mambaseg.image import COLOURS, Image
from mambaseg.models import Model
from mambaseg.models.domains import signature
from mambaseg.orientation import orientation_of

__all__ = ["check_values", "match_axes", "match_channels", "match_domain", "match_orientation", "match_spacing",
           "stage_spacing"]

_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue, ITU-R BT.709


def match_channels(image: Image, model: Model, notes: list[str]) -> Image:
    """The image with as many channels as the model takes.

    A grey picture is repeated for a model of colour pictures; a colour picture becomes its luminance for a model of one
    channel.

    Parameters
    ----------
    notes : gets a sentence where something was converted

    Raises
    ------
    ModelError : any other mismatch; names both counts
    """
    n_given, n_wanted = image.n_channels, model.n_channels
    if n_given == n_wanted:
        return image
    if n_given == 1 and tuple(name.lower() for name in model.channels) == COLOURS:
        notes.append("The grey picture was given to the model as red, green and blue alike.")
        first = int(image.has_time)  # where the channel axis belongs
        data = image.data if "C" in image.axes else np.expand_dims(image.data, first)
        repeated = np.broadcast_to(data, (*data.shape[:first], n_wanted, *data.shape[first + 1:]))
        axes = "TC"[not image.has_time:] + image.axes.strip("TC")
        return dataclasses.replace(image, data=repeated, axes=axes, channel_names=())
    if image.is_rgb and n_wanted == 1:
        notes.append(f"The colour picture was converted to its luminance, because {model.title} takes one channel.")
        first = image.axes.index("C")
        grey = np.tensordot(np.array(_LUMINANCE, np.float32), image.data, axes=(0, first))
        return dataclasses.replace(image, data=grey, axes=image.axes.replace("C", ""), channel_names=(), is_rgb=False)
    raise ModelError(f"{_name(image)} has {_channels(n_given, image.channel_names)}, but {model.title} takes "
                     f"{_channels(n_wanted, model.channels)}; give an image with these, or choose another model.")


def match_domain(image: Image, model: Model, notes: list[str]) -> Model:
    """The model as it answers for this kind of picture; see `mambaseg.models.Model.suited`.

    Parameters
    ----------
    image : with the model's channels; of a time series the first time point is looked at
    notes : gets a sentence where what the model learned from corrections is not for this picture
    """
    if not model.is_split:
        return model
    suited = model.suited(signature(next(image.frames())))
    if suited is not model:
        notes.append(f"This image is of another kind than those that {model.title} learned from corrections, so they "
                     "did not change how it was segmented.")
    return suited


def match_axes(image: Image, model: Model, notes: list[str]) -> bool:
    """Whether the model goes through the image slice by slice.

    Raises
    ------
    ModelError : a picture was given to a model of volumes
    """
    if image.ndim < model.plan.ndim:
        raise ModelError(f"{_name(image)} is a 2-D picture, but {model.title} takes 3-D volumes; give a volume or "
                         "choose a 2-D model.")
    patch = model.plan.patch_size
    if model.plan.fit == "windows" and any(
            2 * size < side for size, side in zip(image.grid.shape[-len(patch):], patch, strict=True)):
        notes.append("The image is much smaller than what the model looks at at once; it was padded, and the result "
                     "may be poor.")
    is_slicewise = image.ndim > model.plan.ndim
    if is_slicewise:
        notes.append(f"{model.title} is a 2-D model: each slice was segmented on its own, objects are not linked "
                     "across slices.")
    return is_slicewise


def match_spacing(image: Image, model: Model, notes: list[str]) -> tuple[float, ...] | None:
    """Voxel size in the plan's unit, array order; None where the model works on the picture's own grid."""
    plan = model.plan
    if plan.spacing is not None and image.grid.unit == "px":
        assumed = plan.usual_spacing or plan.spacing
        notes.append(f"The image's voxel size is not known; {' x '.join(f'{size:g}' for size in assumed)} {plan.unit}, "
                     f"which {'the pictures it learned from have' if plan.usual_spacing else 'the model works at'}, "
                     "was assumed.")
    return plan.spacing_of(image.grid.spacing, image.grid.unit)


def match_orientation(image: Image, model: Model, notes: list[str]) -> None:
    """Tell where nobody knows how the patient lies in a volume, for a model to which that matters."""
    if model.plan.orientation and image.ndim == 3 and not orientation_of(image.grid):
        notes.append("The image does not tell how the patient lies in it; its axes were taken to lead as in the "
                     f"volumes that the model learned from ({model.plan.orientation}).")


def stage_spacing(image: Image, part: Model, model: Model, notes: list[str]) -> tuple[float, ...] | None:
    """As `match_spacing` for one of the networks that answer together.

    Parameters
    ----------
    part : of the stages or members of `model`; a stage of low resolution takes an image of unknown voxel size for one
        of the full resolution
    """
    whole = model.plan
    assumed = whole.usual_spacing or whole.spacing
    if not model.previous or image.grid.unit != "px" or assumed is None:
        return match_spacing(image, part, notes)
    match_spacing(image, model, notes)
    return part.plan.spacing_of(assumed, whole.unit)


def check_values(image: Image, notes: list[str]) -> int:
    """How many values are NaN or infinite; `prepare` replaces them by the smallest finite one.

    Raises
    ------
    ImageError : there are no others, or every value is the same, so that nothing can be found
    """
    if image.data.min() == image.data.max():
        raise ImageError(f"{_name(image)} is constant (every value is {image.data.min():g}), so there is nothing to "
                         "segment; check how it was taken or saved.")
    if image.data.dtype.kind != "f":
        return 0
    n_bad = int(image.data.size - np.count_nonzero(np.isfinite(image.data)))
    if n_bad == image.data.size:
        raise ImageError(f"{_name(image)} has no finite value: every voxel is NaN or infinite; check how it was saved.")
    if n_bad:
        values = "value was" if n_bad == 1 else "values were"
        notes.append(f"{n_bad:,} {values} NaN or infinite and taken for the image's smallest finite value.")
    return n_bad


def _name(image: Image) -> str:
    return image.source or "The image"


def _channels(n: int, names: Sequence[str]) -> str:
    listed = f" ({', '.join(names)})" if names else ""
    return f"{n} channel{'s' if n != 1 else ''}{listed}"
