"""What the user changes in a result: the difference to what the network found, kept on the disk by the core's journal.

No events are trusted to say what changed (undo, for example, says nothing); they only say when to look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import UserError
from mambaseg.learn import ImageIdentity, Project, ProjectImage, default_folder, identify
from mambaseg.models import Model, read_model, resolve
from MambaSegLib._adapt import Box, Source, layers, read_volume
from MambaSegLib._segments import LABEL, MODEL, NUMBERS, number_of, volume_of

__all__ = ["PROJECT", "Correcting", "merge"]

PROJECT = "MambaSeg.project"  # attribute of a result: folder of the journal with its corrections
IDENTITY = "MambaSeg.identity"  # attribute of a result: checksum of the volume's voxels

_TOO_MANY = ("{name} has too many objects for a segment each, so they cannot be corrected one by one; segment a region "
             "of the volume to do that.")
_NO_VOLUME = ("The volume that {name} belongs to is not in the scene any more; load it again and press Segment to go "
              "on correcting.")
_OTHER_VOLUME = ("The voxels of {volume} are not those that {name} was made from; load the volume as it was then, or "
                 "press Segment to begin anew.")


class Correcting:
    """A result that is being corrected; made by `begin` or `resume`.

    Attributes
    ----------
    node : the segmentation node
    source : the volume
    model : the network whose result it is; `model_name` is what it is found by
    image : its strokes, confirmations and counts, in the core's journal
    notice : a sentence for people about what cannot be learned from; empty nearly always
    """

    def __init__(self, node: Any, source: Source, model_name: str, project: Project, identity: ImageIdentity) -> None:
        self.node = node
        self.source = source
        self.model_name = model_name
        self.model: Model = read_model(resolve(model_name))
        self.project = project
        self.image: ProjectImage = project.image(identity, self.model.kind)
        self.notice = ""
        self._overlapping = np.zeros(0, np.intp)
        node.SetAttribute(PROJECT, str(project.folder))
        node.SetAttribute(IDENTITY, identity.checksum)

    @classmethod
    def open(cls, node: Any, source: Source, model_name: str, identity: ImageIdentity | None = None) -> Correcting:
        """The journal of a fresh result; hand the result to `image.show_prediction` next, as `begin` does.

        Raises
        ------
        UserError : too many objects, or the journal cannot be opened
        """
        if node.GetNodeReference(NUMBERS) is not None:
            raise UserError(_TOO_MANY.format(name=node.GetName()))
        identity = identify(source.image) if identity is None else identity
        return cls(node, source, model_name, Project.open_or_create(default_folder(identity), source.name), identity)

    @classmethod
    def begin(cls, node: Any, source: Source, model_name: str, labels: NDArray[Any],
              identity: ImageIdentity | None = None, *, keep_locked: bool = True) -> tuple[Correcting, NDArray[Any]]:
        """Take a fresh result as what corrections will refer to; takes seconds of a large volume.

        Parameters
        ----------
        labels : (k, j, i), as the network found them
        identity : of the volume, where it is known already
        keep_locked : what was corrected in this volume earlier stays as it is

        Returns
        -------
        The correcting, and the labels to show: the network's, with earlier corrections over them

        Raises
        ------
        UserError : too many objects, or the journal cannot be written
        """
        correcting = cls.open(node, source, model_name, identity)
        return correcting, correcting.image.show_prediction(labels, keep_locked=keep_locked)

    @classmethod
    def resume(cls, node: Any) -> Correcting:
        """Go on with a result of an earlier day, out of a saved scene.

        Raises
        ------
        UserError : its volume, its model or its journal is not there any more
        """
        volume, folder = volume_of(node), node.GetAttribute(PROJECT)
        if volume is None:
            raise UserError(_NO_VOLUME.format(name=node.GetName()))
        if not folder:
            raise UserError(f"{node.GetName()} was not made by MambaSeg; press Segment, then correct what it finds.")
        project, known = Project.open(folder), node.GetAttribute(IDENTITY)
        as_loaded = read_volume(volume)
        # Slicer turns the slices of a left-handed volume round when it loads the file that it saved
        for source in (as_loaded, as_loaded.turned):
            identity = identify(source.image)
            if identity.checksum == known:
                return cls(node, source, node.GetAttribute(MODEL), project, identity)
        project.close()
        raise UserError(_OTHER_VOLUME.format(name=node.GetName(), volume=as_loaded.name))

    def labels(self) -> NDArray[Any]:
        """The segments as they are now, one label a voxel, (k, j, i).

        Where segments overlap, the one that was drawn over the other counts.
        """
        found = [self._values(ids, labels) for ids, labels in layers(self.node, self.source)]
        if len(found) < 2:
            return found[0] if found else np.zeros(self.source.shape, np.uint8)
        merged, self._overlapping = merge(found, self.image.labels(), self._overlapping)
        return merged

    def record(self, tool: str = "segment editor") -> bool:
        """Put what has changed on the disk; whether something had.

        Raises
        ------
        UserError : it cannot be written; the next call finds the difference again
        """
        return self.image.record(self.labels(), tool) is not None

    def confirm(self, box: Box | None = None) -> None:
        """Take what is shown in a box (None: everywhere) as right."""
        self.image.confirm(self.labels(), None if box is None else [slice(*side) for side in box])

    def unlock(self, box: Box | None = None) -> None:
        """Take a box for not looked at; its labels stay as they are."""
        self.image.unlock(self.labels(), None if box is None else [slice(*side) for side in box])

    def close(self) -> None:
        """Close the journal; every stroke was on the disk before."""
        self.project.close()

    def _values(self, ids: list[str], labels: NDArray[Any]) -> NDArray[Any]:
        """Class or object numbers, of Slicer's own numbers for segments; in a small type, since volumes are large."""
        table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        for each in ids:
            segment = self.node.GetSegmentation().GetSegment(each)
            if segment.GetLabelValue() < len(table):
                table[segment.GetLabelValue()] = self._number(segment)
        return table.astype(np.uint8 if table.max() < 2**8 else np.int32)[labels]

    def _number(self, segment: Any) -> int:
        """Class or object that a segment stands for; of a new one the next free number, or the class of its name."""
        number = number_of(segment)
        if number is not None:
            return number
        names = self.model.classes
        if self.model.kind == "instances":
            segmentation = self.node.GetSegmentation()
            known = [number_of(segmentation.GetSegment(each)) or 0 for each in segmentation.GetSegmentIDs()]
            number = max([*known, int(self.image.labels().max(initial=0))]) + 1
        elif segment.GetName() in names[1:]:
            number = names.index(segment.GetName())
        else:
            self.notice = (f"The model knows no “{segment.GetName()}”, so that segment is kept but not learned from; "
                           f"it knows {', '.join(names[1:])}.")
            return 0
        segment.SetTag(LABEL, str(number))
        return number


def merge(found: list[NDArray[np.int32]], before: NDArray[np.int32], overlapping: NDArray[np.intp]
          ) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """One label a voxel out of labels that overlap.

    Where two meet that did not before, the new one counts; where they already did, what counted then.

    Parameters
    ----------
    found : (k, j, i) each, at least one
    before : what counted last time
    overlapping : flat indices of the voxels that had several labels then

    Returns
    -------
    labels; indices of the voxels that have several now
    """
    merged = np.zeros_like(before)
    n_labels = np.zeros(before.shape, np.uint8)
    for labels in found:
        np.copyto(merged, labels, where=labels > 0)
        n_labels += labels > 0
    several = np.flatnonzero(n_labels > 1)
    if several.size:
        was = before.ravel()[several]
        candidates = np.stack([labels.ravel()[several] for labels in found])
        is_new = (candidates > 0) & (candidates != was)
        newest = candidates[len(found) - 1 - is_new[::-1].argmax(0), np.arange(several.size)]
        stays = np.isin(several, overlapping) & (candidates == was).any(0)
        merged.ravel()[several] = np.where(stays, was, newest)
    return merged, several
