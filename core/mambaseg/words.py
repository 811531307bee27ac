"""Plain words for people: the same in the shell, in napari and in 3D Slicer."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mambaseg
from mambaseg._errors import UserError

if TYPE_CHECKING:
    from mambaseg.image import Image
    from mambaseg.models import Model
    from mambaseg.progress import Progress
    from mambaseg.segmentation import Estimate

__all__ = ["NOTHING_TO_LEARN", "NO_MEMORY", "WENT_WRONG", "bug_report", "counted", "day", "duration", "estimate_line",
           "found", "how_far", "learning_sentence", "left_out", "lesson_lines", "loss", "model_card", "model_line",
           "model_titles", "problem", "progress_sentence", "read_as", "saved", "size", "size_unit", "things"]

NO_MEMORY = "The memory does not suffice; choose a part of the image, or close other programs."
NOTHING_TO_LEARN = ("Nothing is corrected or confirmed yet; draw in the result or press “This region is right”, then "
                    "learn.")
WENT_WRONG = "Something went wrong inside mambaseg; please report it with what “Copy details” gives."

_UNITS_OF_WORK = {"Segmenting": "Window", "Training": "Iteration"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_JUST_NOW_S = 1.5
_FEWEST_UNITS = 4  # as in mambaseg.learn.judge, which would load torch
_HEADLINES = {"f1@0.5": "F1", "foreground_mean": "Dice"}  # scores that a line about a model may quote


def duration(seconds: float) -> str:
    """Seconds for people: "0.4 s", "12 s", "3 min", "2 h 5 min"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def day(seconds_since_1970: float) -> str:
    """A day for people, whatever the locale: "20 Nov"."""
    local = time.localtime(seconds_since_1970)
    return f"{local.tm_mday} {_MONTHS[local.tm_mon - 1]}"


def size(n_bytes: float) -> str:
    """Bytes for people: "0.6 GB", "38 MB"."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"


def how_far(update: Progress) -> str:
    """Units done, time left and message of a report: "31 of 120, 6 s left"; empty where nothing is known."""
    parts = [f"{update.done} of {update.total}" if update.total else f"{update.done}" if update.done else ""]
    if update.seconds_left is not None:
        parts.append(f"{duration(update.seconds_left)} left")
    parts.append(update.message)
    return ", ".join(part for part in parts if part)


def progress_sentence(update: Progress) -> str:
    """A report in words: "Window 31 of 120, 6 s left", "Preparing"."""
    if update.done == 0:
        return f"{update.stage}, {update.message}" if update.message else update.stage
    return f"{_UNITS_OF_WORK.get(update.stage, update.stage)} {how_far(update)}"


def loss(update: Progress) -> float | None:
    """The newest loss in a report of training, for a curve; None where it tells none."""
    word, _, rest = update.message.partition(" ")
    try:
        return float(rest.split(",")[0]) if word == "loss" else None
    except ValueError:
        return None


def learning_sentence(update: Progress, has_begun: bool) -> str:
    """What learning is at, for a line below its bar: "Round 31 of 120, 6 s left".

    Parameters
    ----------
    has_begun : whether a loss was told before; what follows the training is then the comparison
    """
    if update.stage == "Training":
        return progress_sentence(mambaseg.Progress("Round", update.done, update.total, "", None, update.seconds_left))
    return "Comparing before and after…" if has_begun else f"{update.stage}…"


def read_as(image: Image) -> str:
    """What an image was taken for: "2-D, 1 channel, 0.50 um/px"; sizes x first, as in every viewer."""
    parts = [f"{image.ndim}-D"]
    if image.has_time:
        parts.append(f"{image.n_frames:,} time point{'s' if image.n_frames != 1 else ''}")
    parts.append("colour" if image.is_rgb else f"{image.n_channels} channel{'s' if image.n_channels != 1 else ''}")
    element = "pixel" if image.ndim == 2 else "voxel"
    grid = image.grid
    if grid.unit == "px":
        return ", ".join([*parts, f"{element} size not known"])
    sizes = [_decimal(spacing) for spacing in reversed(grid.spacing)]
    shown = sizes[0] if image.ndim == 2 and len(set(sizes)) == 1 else " x ".join(sizes)
    return ", ".join([*parts, f"{shown} {grid.unit}/{'px' if image.ndim == 2 else 'voxel'}"])


def model_line(model: Model) -> str:
    """What a model is for, how good it is and whose data it saw, in one line.

    "Finds nuclei in fluorescence pictures. F1 0.88 on 66 held-out pictures. CC0 data."
    """
    sentences = [model.description.strip().rstrip("."), _score(model)]
    data = model.training.get("data")
    if isinstance(data, Mapping) and data.get("licence"):
        sentences.append(f"{_licence(str(data['licence']))} data")
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def model_card(model: Model) -> str:
    """What there is to know about a model beside its line before trusting it, one fact a line."""
    data = model.training.get("data")
    told = data if isinstance(data, Mapping) else {}
    channels = ", ".join(model.channels)
    facts = {
        "Takes": f"{model.plan.ndim}-D {'pictures' if model.plan.ndim == 2 else 'volumes'}, channels: {channels}",
        "Finds": ", ".join(model.classes[1:]),
        "Trained on": told.get("citation") or told.get("name") or (data if isinstance(data, str) else ""),
        "Score": _score(model),
        "Licence": model.licence + (f"; data {told['licence']}" if told.get("licence") else ""),
        "Learned from": model.parent["name"] if model.parent else "",
        "Network": model.network,
    }
    return "\n".join(f"{name}: {fact}" for name, fact in facts.items() if fact)


def model_titles(models: Sequence[Model]) -> list[str]:
    """What models are called in a list; with the folder's name where two would be called the same."""
    titles = [model.title for model in models]
    return [title if titles.count(title) == 1 or model.folder is None else f"{title} ({model.folder.name})"
            for title, model in zip(titles, models, strict=True)]


def things(model: Model) -> str:
    """What a result of a model is called, as a layer or a node: "nuclei", "front, back", "liver and 12 more"."""
    names = model.classes[1:]
    if model.kind == "instances" and len(names) == 1:
        return {"nucleus": "nuclei"}.get(names[0], f"{names[0]}s")
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"


def size_unit(model: Model) -> str:
    """Unit of the smallest size of an object that a model's decoder keeps: "px", "um²"."""
    if model.plan.spacing is None:
        return "px" if model.plan.ndim == 2 else "voxels"
    return f"{model.plan.unit}{'²' if model.plan.ndim == 2 else '³'}"


def bug_report(sentence: str, details: str) -> str:
    """What a bug report needs: what was said, what lay behind it, and versions; nothing about the image."""
    versions = f"mambaseg {mambaseg.__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"{sentence}\n\n{versions}\n\n{details}".strip() + "\n"


def problem(error: BaseException) -> tuple[str, str]:
    """What is said of an error: a sentence for people, and details for `bug_report`."""
    sentence = (str(error) if isinstance(error, UserError) else NO_MEMORY if isinstance(error, MemoryError)
                else WENT_WRONG)
    return sentence, "".join(traceback.format_exception(error))


def estimate_line(estimate: Estimate) -> str:
    """What a run will cost: "Will take about 4 s and 0.6 GB"; with what to do where that is more than there is."""
    line = f"Will take about {duration(estimate.seconds)} and {size(estimate.memory_bytes)}"
    return line if estimate.fits else f"{line}. {estimate.advice}"


def found(record: Mapping[str, Any], thing: str = "object") -> str:
    """What a segmentation found, out of its record: "214 objects", or the share of each class.

    Parameters
    ----------
    thing : what one object is called; "cell" where that is known
    """
    if "n_objects" in record:
        return f"{record['n_objects']:,} {thing}{'s' if record['n_objects'] != 1 else ''}"
    total = max(1, sum(record["voxels"].values()))
    shares = [f"{name} {100 * count / total:.1f} %" for name, count in list(record["voxels"].items())[1:]]
    return ", ".join(shares[:8])


def saved(ago_s: float) -> str:
    """When the last stroke reached the disk: "Saved just now", "Saved 12 s ago"."""
    return "Saved just now" if ago_s < _JUST_NOW_S else f"Saved {duration(ago_s)} ago"


def counted(n_corrected: int, n_confirmed: int) -> str:
    """How much was corrected: "12 corrected, 31 confirmed"."""
    return f"{n_corrected:,} corrected, {n_confirmed:,} confirmed"


def lesson_lines(judgement: Mapping[str, Any], kind: str) -> list[str]:
    """What learning came to: the numbers before and after, what was forgotten, and whether to keep it.

    Parameters
    ----------
    judgement : `mambaseg.learn.judge.Judgement` as plain values
    kind : of the model: "classes", "regions" or "instances"

    Returns
    -------
    One to three lines, the verdict last; those without numbers are left out
    """
    before, after, forgetting = judgement["before"], judgement["after"], judgement.get("forgetting")
    lines = []
    if before["mean"] is not None:
        n = int(after["n_units"])
        thing = "object" if kind == "instances" else "part"
        lines.append(f"Before {before['mean']:.2f}   After {after['mean']:.2f}   on {n} {thing}{'s' * (n != 1)} kept "
                     "aside")
    if forgetting and "test input" in forgetting["on"]:
        lines.append(f"Of its former answers {100 * forgetting['after']:.0f} % are the same (on its test input)")
    elif forgetting:
        lines.append(f"On {forgetting['on']}: {forgetting['before']:.2f} → {forgetting['after']:.2f}")
    return [*lines, _verdict(judgement)]


def left_out(n_images: int, thing: str, where: str) -> list[str]:
    """That corrected images taught nothing because they are not "open" or "in the scene"; nothing for no images."""
    if not n_images:
        return []
    is_one = n_images == 1
    are, them = ("is", "it") if is_one else ("are", "them")
    return [f"{n_images:,} corrected {thing}{'s' * (not is_one)} of this project {are} not {where}, so nothing was "
            f"learned from {them}."]


def _verdict(judgement: Mapping[str, Any]) -> str:
    """Whether to keep a new model."""
    if judgement["before"]["mean"] is None:
        return str(judgement["sentence"])
    if judgement["better"]:
        return "It is better."
    if judgement["gain_high"] < 0:
        return "It is worse: keep the old model."
    if judgement["gain_low"] > 0 and judgement["after"]["n_units"] >= _FEWEST_UNITS:
        return "It is better here, but forgot some of what it knew: keep the old model for other pictures."
    return "It is not surely better: keep the old model, or correct more."


def _decimal(value: float) -> str:
    """Two digits that count, never in scientific notation: 0.50, 1.25, 0.065."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.6f}".rstrip("0").rstrip(".")[:8]


def _score(model: Model) -> str:
    """The score to quote, and on how many pictures it was measured; empty where there is none."""
    scores = model.scores
    for key, name in _HEADLINES.items():
        value, n_images = _overall(scores.get(key)), _overall(scores.get("n_images"))
        if isinstance(value, int | float):
            pictures = "pictures" if model.plan.ndim == 2 else "volumes"
            return f"{name} {value:.2f} on {f'{n_images} ' if n_images else ''}held-out {pictures}"
    return ""


def _overall(value: Any) -> Any:
    """A score over all pictures, where it was also told by kind of picture."""
    return value.get("all") if isinstance(value, Mapping) else value


def _licence(name: str) -> str:
    """An SPDX name as people say it: CC0, CC BY-SA 4.0."""
    if name.startswith("CC0"):
        return "CC0"
    if name.startswith("CC-"):
        kind, _, version = name.removeprefix("CC-").rpartition("-")
        return f"CC {kind} {version}"
    return name
