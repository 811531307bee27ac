"""An annotation project: a folder that keeps the strokes, the models learned from them, and the settings.

    project = Project.open_or_create(default_folder(identity))
    image = project.image(identify(picture), kind=model.kind)
    layer.data = image.show_prediction(result.labels)     # locked voxels keep their labels
    image.record(layer.data, tool="brush", box=box)        # at every event that says something may have changed
    image.confirm(layer.data, box)                         # "this region is right"
    examples = image.corrections().to_examples()           # to learn from

In the folder: `project.json` (name and settings), `journal.sqlite` (strokes, predictions shown, marks, lineage) and
`models/` (one package a version).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError
from mambaseg.io.atomic import atomic_path
from mambaseg.learn.corrections import (
    CORRECTED,
    Corrections,
    Counts,
    apply_locks,
    encode_marks,
    voxel_states,
)
from mambaseg.learn.journal import ImageIdentity, Journal, Stroke, View
from mambaseg.learn.journal_blocks import shifted
from mambaseg.learn.lineage import Lineage

__all__ = ["Project", "ProjectImage", "RecentProject", "data_folder", "default_folder", "project_of",
           "recent_projects"]

_ABOUT = "project.json"
_FORM = 1
_N_RECENT = 20


class Project:
    """An open project; made by `open`, `create` or `open_or_create`. Several programs may have it open at once.

    Attributes
    ----------
    folder : where it is
    name : for people
    settings : plain values that front ends keep with the project; change them with `save_settings`
    journal : all strokes
    lineage : all models
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.name = str(about["name"])
        self.settings: dict[str, Any] = dict(about["settings"])
        self.journal = Journal(folder / "journal.sqlite")
        self.lineage = Lineage(self.journal.database, folder / "models")
        _remember(self)

    @classmethod
    def create(cls, folder: Path | str, name: str = "") -> Project:
        """A new project in a folder that is empty or missing.

        Raises
        ------
        UserError : there is something else in the folder, or it cannot be written
        """
        folder = Path(folder).resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty, so no project can be made there; choose a new folder, or open the "
                            "project in it.")
        about = {"form": _FORM, "name": name or folder.name, "settings": {}}
        _write_json(folder / _ABOUT, about)
        return cls(folder, about)

    @classmethod
    def open(cls, folder: Path | str) -> Project:
        """The project in a folder, as it was when the last stroke was kept.

        Raises
        ------
        UserError : there is no project, or a later version of the program made it
        """
        folder = Path(folder).resolve()
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            form = about["form"]
            if not isinstance(about["name"], str) or not isinstance(about["settings"], dict):
                raise ValueError("entries of another type")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"There is no annotation project in {folder}; choose a folder with {_ABOUT} in "
                            "it.") from error
        if form != _FORM:
            raise UserError(f"{folder} was made by a later version of the program; update mambaseg.")
        return cls(folder, about)

    @classmethod
    def open_or_create(cls, folder: Path | str, name: str = "") -> Project:
        """The project in a folder, made there if need be."""
        return cls.open(folder) if (Path(folder) / _ABOUT).exists() else cls.create(folder, name)

    def close(self) -> None:
        """Close the files; everything was on the disk before."""
        self.journal.close()

    def save_settings(self, **settings: Any) -> None:
        """Change settings (plain values) and write them whole or not at all."""
        self.settings |= settings
        _write_json(self.folder / _ABOUT, {"form": _FORM, "name": self.name, "settings": self.settings})

    def image(self, identity: ImageIdentity, kind: str = "classes") -> ProjectImage:
        """An image as it was left, or one that nobody has corrected yet.

        Parameters
        ----------
        identity : from `mambaseg.learn.journal.identify`
        kind : of the model whose predictions are corrected: "classes", "regions" or "instances"
        """
        return ProjectImage(self.journal.view(identity), kind)

    def images(self) -> list[ImageIdentity]:
        """The images of the project, the first one first."""
        return self.journal.images()

    def learned_from(self, images: Sequence[ProjectImage]) -> dict[str, Any]:
        """What a model made now learns from, as `Lineage.add` writes it down: plain values.

        Parameters
        ----------
        images : whose corrections are used

        Returns
        -------
        images (checksums), n_corrected and n_confirmed (objects), sequence (number of the last stroke)
        """
        counts = [image.counts() for image in images]
        stroke = self.journal.last_stroke()
        return {"images": [image.identity.checksum for image in images],
                "n_corrected": sum(each.n_corrected for each in counts),
                "n_confirmed": sum(each.n_confirmed for each in counts), "sequence": stroke.sequence if stroke else 0}

    def n_corrected_besides(self, checksums: Collection[str]) -> int:
        """How many other images of the project than these anything was corrected or confirmed in."""
        others = [identity for identity in self.images() if identity.checksum not in checksums]
        return sum(any(True for _ in self.journal.view(identity).blocks_touched()) for identity in others)

    @property
    def saved_at_s(self) -> float | None:
        """When the last stroke reached the disk, in seconds since 1970; None before the first."""
        stroke = self.journal.last_stroke()
        return stroke.time_s if stroke else None

    @property
    def notices(self) -> list[str]:
        """Sentences for people about what had to be rescued; empty nearly always."""
        return self.journal.notices


class ProjectImage:
    """One image of a project as one window has it; made by `Project.image`.

    Attributes
    ----------
    view : its journal, for `View.read` and `View.pull`
    kind : of the model
    """

    def __init__(self, view: View, kind: str) -> None:
        self.view = view
        self.kind = kind

    @property
    def identity(self) -> ImageIdentity:
        """Which image it is."""
        return self.view.identity

    def labels(self) -> NDArray[np.int32]:
        """The labels as they were last recorded, (*S); zeros before the first prediction or stroke."""
        return self.view.read("labels")

    def record(self, labels: NDArray[Any], tool: str = "paint", box: Sequence[slice] | None = None) -> Stroke | None:
        """Put what changed in the labels on the disk; see `View.record`."""
        return self.view.record(labels, tool, box)

    def show_prediction(self, prediction: NDArray[Any], *, keep_locked: bool = True,
                        box: Sequence[slice] | None = None) -> NDArray[np.int32]:
        """Take a new prediction as what corrections refer to, and keep what was corrected so far.

        Parameters
        ----------
        prediction : whole numbers from 0, (*S); record the labels before, so that the latest stroke counts
        keep_locked : False: corrected and confirmed voxels are overwritten and forgotten too
        box : where the prediction was made, which then has the shape of the box; None: everywhere

        Returns
        -------
        int32, (*S): what to show: the prediction with the facts over it. Put it into a new layer: the host's undo steps
        of the old one do not fit it
        """
        corrections = self.corrections(box)
        shown = apply_locks(prediction, corrections) if keep_locked else prediction.astype(np.int32)
        marks = np.where(keep_locked & (shown == corrections.labels), encode_marks(corrections), 0)
        self.view.write({"labels": shown, "baseline": shown, "marks": marks}, "prediction", box)
        return shown

    def confirm(self, labels: NDArray[Any], box: Sequence[slice] | None = None,
                mask: NDArray[np.bool_] | None = None) -> Stroke | None:
        """Take what is shown in a region as right.

        Parameters
        ----------
        labels : the whole array as it is now; what changed in the box is recorded too
        box : the region as slices; None: everywhere
        mask : bool, of the shape of the box: which voxels of it (one object, a drawn outline); None: all

        Returns
        -------
        The stroke; None: it was known already
        """
        return self._mark(labels, "confirm", box, mask)

    def unlock(self, labels: NDArray[Any], box: Sequence[slice] | None = None,
               mask: NDArray[np.bool_] | None = None) -> Stroke | None:
        """Take a region's voxels for not looked at, whatever they were; their labels stay. Arguments as `confirm`."""
        return self._mark(labels, "unlock", box, mask)

    def corrections(self, box: Sequence[slice] | None = None) -> Corrections:
        """What is known about the image (None), or a box of it, as far as it was touched there."""
        whole = self.view.grid.whole_box(box)
        labels = self.view.read("labels", whole)
        return Corrections(labels, *self._states(labels, whole))

    def counts(self) -> Counts:
        """Numbers of corrected and confirmed objects; looks only at the part of the image where there are any."""
        boxes = list(self.view.blocks_touched())
        if not boxes:
            return Counts()
        rim = 1  # shows whether an object goes on beyond
        box = tuple(slice(max(0, min(part.start for part in parts) - rim),
                          min(extent, max(part.stop for part in parts) + rim))
                    for parts, extent in zip(zip(*boxes, strict=True), self.view.shape, strict=True))
        labels = self.view.read("labels", box)
        return Corrections(labels, *self._states(labels, box)).counts()

    def _states(self, labels: NDArray[np.int32], box: tuple[slice, ...]) -> tuple[NDArray[np.uint8], str, int]:
        """State, kind and contradictions of the labels in a box, block by block where anything was touched."""
        state = np.zeros(labels.shape, np.uint8)
        touched = [np.zeros(0, np.int32)]
        n_overruled = 0
        for block in self.view.blocks_touched():
            place = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(block, box, strict=True))
            if any(side.stop <= side.start for side in place):
                continue
            inside = shifted(place, box)
            state[inside], names, n = voxel_states(
                labels[inside], self.view.read("baseline", place), self.view.read("marks", place))
            touched.append(names)
            n_overruled += n
        names = np.setdiff1d(np.concatenate(touched), [0])
        if self.kind == "instances" and len(names):
            state[np.isin(labels, names)] = CORRECTED
        return state, self.kind, n_overruled

    def _mark(self, labels: NDArray[Any], tool: str, box: Sequence[slice] | None,
              mask: NDArray[np.bool_] | None) -> Stroke | None:
        """Write marks for a region, with the labels they are for."""
        self.record(labels, box=box)  # also checks the shape
        whole = self.view.grid.whole_box(box)
        now, baseline, marks = (self.view.read(plane, whole) for plane in ("labels", "baseline", "marks"))
        chosen = np.ones(now.shape, bool) if mask is None else mask
        if chosen.shape != now.shape:
            raise UserError(f"The region is {chosen.shape} voxels, but its box is {now.shape}; give one truth value a "
                            "voxel of the box.")
        if tool == "unlock":
            planes = {"marks": np.where(chosen, 0, marks), "baseline": np.where(chosen, now, baseline)}
        else:
            corrected = marks == -(now + 1)
            planes = {"marks": np.where(chosen & ~corrected, now + 1, marks)}
        return self.view.write(planes, tool, whole)


@dataclass(frozen=True)
class RecentProject:
    """A project to go on with.

    Parameters
    ----------
    folder : where it is
    name : for people
    opened_s : when it was last opened, in seconds since 1970
    """

    folder: Path
    name: str
    opened_s: float


def recent_projects() -> list[RecentProject]:
    """Projects that are still there, the last opened first: for "Go on where you stopped?"."""
    entries = []
    for entry in _read_recent():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            entries.append(RecentProject(Path(entry["folder"]), str(entry["name"]), float(entry["opened_s"])))
    return [entry for entry in entries if (entry.folder / _ABOUT).is_file()]


def project_of(identity: ImageIdentity) -> Path | None:
    """The project that was last opened of those which have the image; None: it was never corrected."""
    for recent in recent_projects():
        with contextlib.suppress(UserError):
            journal = Journal(recent.folder / "journal.sqlite")
            try:
                if identity.checksum in [image.checksum for image in journal.images()]:
                    return recent.folder
            finally:
                journal.close()
    return None


def default_folder(identity: ImageIdentity) -> Path:
    """Where a project of one image goes when the user names no place."""
    stem = "".join(letter for letter in Path(identity.name).stem if letter.isalnum() or letter in "-_")[:40]
    return data_folder() / "projects" / f"{stem or 'image'}-{identity.checksum[:12]}"


def data_folder() -> Path:
    """The program's own folder among the user's data; `MAMBASEG_DATA` names another."""
    if chosen := os.environ.get("MAMBASEG_DATA"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "mambaseg"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/mambaseg"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "mambaseg"


def _read_recent() -> list[dict[str, Any]]:
    try:
        entries = json.loads((data_folder() / "recent.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _remember(project: Project) -> None:
    """Put a project at the head of the recent ones; a list that cannot be written keeps nobody from working."""
    entry = {"folder": str(project.folder), "name": project.name, "opened_s": time.time()}
    others = [other for other in _read_recent() if other.get("folder") != entry["folder"]]
    with contextlib.suppress(UserError):
        _write_json(data_folder() / "recent.json", [entry, *others][:_N_RECENT])


def _write_json(path: Path, values: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
