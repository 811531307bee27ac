"""What the user changes in a result: the difference to what the network found, kept on the disk by the core's journal.

No events are trusted to say what changed (undo, for example, says nothing); they only say when to look. Looking has two
parts: `Correcting.drawn` copies the segments and belongs to Slicer's thread; everything else may be done in another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import UserError
from mambaseg.learn import ImageIdentity, Project, ProjectImage, apply_locks, default_folder, identify, project_of
from mambaseg.learn.corrections import Counts
from mambaseg.learn.lineage import Version
from mambaseg.models import Model, read_model, resolve
from MambaSegLib._adapt import Box, Layer, Source, layers, read_volume
from MambaSegLib._results import IDENTITY, PROJECT, Result, result_of, results
from MambaSegLib._segments import LABEL, MODEL, NUMBERS, number_of

__all__ = ["Correcting", "Drawn", "State", "merge", "same_voxels"]

_TOO_MANY = ("{name} has too many objects for a segment each, so they cannot be corrected one by one; segment a region "
             "of the volume to do that.")
_NO_VOLUME = ("The volume that {name} belongs to is not in the scene any more; load it again and press Segment to go "
              "on correcting.")
_OTHER_VOLUME = ("The voxels of {volume} are not those that {name} was made from; load the volume as it was then, or "
                 "press Segment to begin anew.")


@dataclass(frozen=True)
class Drawn:
    """The segments of a result as they were at one moment.

    Parameters
    ----------
    layers : what is drawn, each with the class or object that its values stand for
    """

    layers: list[tuple[Layer, NDArray[np.int32]]]


@dataclass(frozen=True)
class State:
    """What a panel shows about a project.

    Parameters
    ----------
    counts : corrected and confirmed
    is_touched : there is something to learn from
    saved_s : when the last stroke reached the disk, in seconds since 1970; None before the first
    versions : the models that were kept, the oldest first
    """

    counts: Counts = field(default_factory=Counts)
    is_touched: bool = False
    saved_s: float | None = None
    versions: tuple[Version, ...] = ()


class Correcting:
    """A result that is being corrected; made by `begin` or `resume`.

    Attributes
    ----------
    result : the segmentation node, or the time point of a sequence
    source : the volume
    model : the network whose result it is; `model_name` is what it is found by
    image : its strokes, confirmations and counts, in the core's journal
    notice : a sentence for people about what cannot be learned from; empty nearly always
    """

    def __init__(self, result: Result, source: Source, model_name: str, project: Project, identity: ImageIdentity
                 ) -> None:
        self.result = result
        self.source = source
        self.model_name = model_name
        self.model: Model = read_model(resolve(model_name))
        self.project = project
        self.image: ProjectImage = project.image(identity, self.model.kind)
        self.notice = ""
        self._segmentation = result.keeper.GetSegmentation()  # a time point's own, also when another one is in view
        self._parent = result.node.GetParentTransformNode()
        self._largest = 0  # object number that was ever used
        self._overlapping = np.zeros(0, np.intp)

    @property
    def node(self) -> Any:
        """The segmentation node."""
        return self.result.node

    @classmethod
    def opening(cls, result: Result, source: Source, identity: ImageIdentity | None = None) -> Callable[[], Correcting]:
        """What opens the journal of a fresh result, in any thread; call `mark` afterwards.

        The project is the one that has the volume already, else the one that other results in the scene are kept in,
        else a new one.

        Raises
        ------
        UserError : too many objects; the function returned raises it where the journal cannot be opened
        """
        if result.node.GetNodeReference(NUMBERS) is not None:
            raise UserError(_TOO_MANY.format(name=result.name))
        at_work = next((other.folder for other in results() if other.folder), None)
        model_name = result.model_name

        def work() -> Correcting:
            known = identify(source.image) if identity is None else identity
            folder = project_of(known) or at_work or default_folder(known)
            return cls(result, source, model_name, Project.open_or_create(folder, source.name), known)

        return work

    @classmethod
    def begin(cls, node: Any, source: Source, labels: NDArray[Any], *, keep_locked: bool = True
              ) -> tuple[Correcting, NDArray[Any]]:
        """Take a fresh result as what corrections will refer to; takes seconds of a large volume.

        Parameters
        ----------
        labels : (k, j, i), as the network found them
        keep_locked : what was corrected in this volume earlier stays as it is

        Returns
        -------
        The correcting, and the labels to show: the network's, with earlier corrections over them

        Raises
        ------
        UserError : too many objects, or the journal cannot be written
        """
        correcting = cls.opening(result_of(node), source)()
        shown = correcting.show(labels, keep_locked=keep_locked)
        correcting.mark()
        return correcting, shown

    @classmethod
    def resuming(cls, result: Result) -> Callable[[], Correcting]:
        """What goes on with a result of an earlier day, in any thread.

        Raises
        ------
        UserError : its volume is not there any more; the function returned raises it where the volume is another one,
            or the model or the journal has gone
        """
        if result.volume is None:
            raise UserError(_NO_VOLUME.format(name=result.name))
        if not result.folder:
            raise UserError(f"{result.name} was not made by MambaSeg; press Segment, then correct what it finds.")
        folder, checksum, name, model_name = result.folder, result.checksum, result.name, result.model_name
        as_loaded = read_volume(result.volume, result.frame)
        drawn = layers(result.keeper.GetSegmentation(), result.node.GetParentTransformNode())

        def work() -> Correcting:
            project = Project.open(folder)
            try:
                found = same_voxels(as_loaded, checksum)
                if found is None:
                    raise UserError(_OTHER_VOLUME.format(name=name, volume=as_loaded.name))
                correcting = cls(result, found[0], model_name, project, found[1])
            except UserError:
                project.close()
                raise
            correcting._largest = int(correcting.image.labels().max(initial=0))
            correcting._overlapping = _several(drawn, found[0])  # there the journal knows which one counts
            return correcting

        return work

    @classmethod
    def resume(cls, node: Any) -> Correcting:
        """Go on with the result in a segmentation node, out of a saved scene; raises as `resuming`."""
        return cls.resuming(result_of(node))()

    def mark(self) -> None:
        """Write into the scene where the corrections are; in Slicer's thread."""
        self.result.set(PROJECT, str(self.project.folder))
        self.result.set(IDENTITY, self.image.identity.checksum)

    def use_model(self, model_name: str) -> None:
        """Take another model for the one whose result it is; in Slicer's thread."""
        self.model_name = model_name
        self.model = read_model(resolve(model_name))
        self.result.set(MODEL, model_name)

    def drawn(self) -> Drawn:
        """The segments as they are now, copied; in Slicer's thread."""
        return Drawn([(layer, self._table(layer)) for layer in layers(self._segmentation, self._parent)])

    def labels(self, drawn: Drawn | None = None) -> NDArray[Any]:
        """One label a voxel, (k, j, i).

        Where segments overlap, the one that was drawn over the other counts.

        Parameters
        ----------
        drawn : what `drawn` gave; None: the segments as they are now, in Slicer's thread
        """
        drawn = self.drawn() if drawn is None else drawn
        found = [table.astype(np.uint8 if table.max() < 2**8 else np.int32)[layer.on_grid(self.source)]
                 for layer, table in drawn.layers]
        if len(found) > 1:
            merged, self._overlapping = merge(found, self.image.labels(), self._overlapping)
        else:
            merged = found[0] if found else np.zeros(self.source.shape, np.uint8)
        self._largest = max(self._largest, int(merged.max(initial=0)))
        return merged

    def record(self, drawn: Drawn | None = None) -> bool:
        """Put what has changed on the disk; whether something had.

        Raises
        ------
        UserError : it cannot be written; the next call finds the difference again
        """
        return self.image.record(self.labels(drawn), "segment editor") is not None

    def show(self, labels: NDArray[Any], *, keep_locked: bool = True) -> NDArray[Any]:
        """Take labels as the network's; what to show: those, with what was corrected over them."""
        shown = self.image.show_prediction(labels, keep_locked=keep_locked)
        self._largest = max(self._largest, int(shown.max(initial=0)))
        return shown

    def laid(self, found: NDArray[Any], box: Box | None = None, drawn: Drawn | None = None
             ) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Other labels around what was corrected; nothing is taken for the network's yet, `show` does that.

        Parameters
        ----------
        found : of the box (None: of everything)
        drawn : as for `labels`; kept first

        Returns
        -------
        The labels without and with what was corrected; None where nothing would change
        """
        self.record(drawn)
        before = self.image.labels()
        labels = before.copy()
        labels[... if box is None else tuple(slice(*side) for side in box)] = found
        shown = apply_locks(labels, self.image.corrections())
        return None if np.array_equal(shown, before) else (labels, shown)

    def confirm(self, box: Box | None = None, drawn: Drawn | None = None, label: int = 0) -> None:
        """Take what is shown in a box (None: everywhere) as right.

        Parameters
        ----------
        drawn : as for `labels`
        label : only the object of this number, where it is still there; 0: everything
        """
        labels = self.labels(drawn)
        where = None if box is None else tuple(slice(*side) for side in box)
        is_it = labels[... if where is None else where] == label
        self.image.confirm(labels, where, is_it if label and is_it.any() else None)

    def unlock(self, box: Box | None = None, drawn: Drawn | None = None) -> None:
        """Take a box for not looked at; its labels stay as they are."""
        self.image.unlock(self.labels(drawn), None if box is None else [slice(*side) for side in box])

    def state(self) -> State:
        """Where the project is at; takes a moment of a large volume, in any thread."""
        kept = tuple(version for version in self.project.lineage.versions() if version.state == "kept")
        return State(self.image.counts(), any(True for _ in self.image.view.blocks_touched()), self.project.saved_at_s,
                     kept)

    def close(self) -> None:
        """Close the journal; every stroke was on the disk before."""
        self.project.close()

    def _table(self, layer: Layer) -> NDArray[np.int32]:
        """Class or object number for each value of a layer, which are Slicer's own."""
        table = np.zeros(int(layer.array.max(initial=0)) + 1, np.int32)
        for each in layer.ids:
            segment = self._segmentation.GetSegment(each)
            if segment.GetLabelValue() < len(table):
                table[segment.GetLabelValue()] = self._number(segment)
        return table

    def _number(self, segment: Any) -> int:
        """Class or object that a segment stands for; of a new one the next free number, or the class of its name."""
        number = number_of(segment)
        if number is not None:
            return number
        names = self.model.classes
        if self.model.kind == "instances":
            known = [number_of(self._segmentation.GetSegment(each)) or 0 for each in self._segmentation.GetSegmentIDs()]
            number = max([*known, self._largest]) + 1
        elif segment.GetName() in names[1:]:
            number = names.index(segment.GetName())
        else:
            self.notice = (f"The model knows no “{segment.GetName()}”, so that segment is kept but not learned from; "
                           f"it knows {', '.join(names[1:])}.")
            return 0
        segment.SetTag(LABEL, str(number))
        return number


def same_voxels(source: Source, checksum: str) -> tuple[Source, ImageIdentity] | None:
    """A volume as it was when it was segmented; None: its voxels are others. For a thread where volumes are large.

    Slicer turns the slices of a left-handed volume round when it loads the file that it saved.
    """
    for candidate in (source, source.turned):
        identity = identify(candidate.image)
        if identity.checksum == checksum:
            return candidate, identity
    return None


def _several(drawn: list[Layer], source: Source) -> NDArray[np.intp]:
    """Flat indices of the voxels that lie in several segments."""
    if len(drawn) < 2:
        return np.zeros(0, np.intp)
    n_labels = np.zeros(source.shape, np.uint8)
    for layer in drawn:
        n_labels += layer.on_grid(source) > 0
    return np.flatnonzero(n_labels > 1)


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
