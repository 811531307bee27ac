"""MambaSegLogic: volume node in, segmentation node out; the network runs in a child process.

Usable in Slicer, and in scripts and notebooks with PyPI's `slicer-core`:

    from MambaSegLib import MambaSegLogic
    segmentationNode = MambaSegLogic().segment(volumeNode, model="hippocampus-mri")
"""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import Cancelled, Progress, UserError, jobs
from mambaseg.learn import ImageIdentity, identify
from mambaseg.models import Model, read_model, resolve
from mambaseg.progress import Preview, ProgressCallback
from MambaSegLib._adapt import Box, Layer, Source, layers, mask_of, read_volume
from MambaSegLib._results import show_frames
from MambaSegLib._runs import Listener, Run
from MambaSegLib._segments import Growing, Painted, show_doubt, show_labels
from MambaSegLib._sequences import frames_of, sequence_of, shown_frame
from MambaSegLib._where import focus_of, region_box, slice_box, view_box

__all__ = ["MambaSegLogic", "Order", "Outcome", "python_command"]

_POLL_S = 0.02
_DRAW_EVERY_S = 0.5
_MOST_COPIED_BYTES = 2**27  # for a mere estimate
_N_DOUBTS = 20
_GONE = ("{name} was removed from the scene while it was being worked on, so there is nowhere to put the result; load "
         "it again and press Segment.")

_IDENTITY = "identity.json"  # in a job's folder: which volume it was, for the journal; takes a second of a large one

_shared: list[jobs.Worker] = []  # one child process for all, so that torch and the models are loaded once


def python_command() -> list[str]:
    """The Python that has mambaseg: Slicer's own, or the one that runs this."""
    return [shutil.which("PythonSlicer") or sys.executable]


@dataclass(frozen=True)
class Order:
    """What is to be segmented and how, as it was when it was asked for.

    Parameters
    ----------
    model_name : what the model is found by; `model` is its description
    box : (start, stop) per k, j, i; None: all of it
    mask : segments to stay inside of; None: everywhere
    options : further keyword arguments of `mambaseg.segment`: tta, device, precision
    focus : voxel (k, j, i) that the user looks at; windows near it come first
    wants_doubt : also show how sure the model is
    frame : number of the volume in the sequence that it belongs to; None: it is no sequence's
    """

    source: Source
    model: Model
    model_name: str
    box: Box | None = None
    mask: list[Layer] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    focus: tuple[float, ...] | None = None
    wants_doubt: bool = False
    frame: int | None = None

    def write_request(self, folder: Path, check: ProgressCallback) -> dict[str, Any]:
        """Copy what is needed to where the child reads it; what to ask of the child."""
        import_module("mambaseg.overlay")  # takes half a second, so not when the first window comes
        request = self._request() | {"image": jobs.write_image(folder, self.source.image, progress=check),
                                     "keep_probabilities": self.wants_doubt}
        (folder / _IDENTITY).write_text(identify(self.source.image).to_json(), encoding="utf-8")
        if self.mask is not None:
            mask = self.source.image.with_data(mask_of(self.source, self.mask), "ZYX")
            request["mask"] = jobs.write_image(folder, mask, "mask", check)
        if self.focus is not None:
            request["focus"] = [float(point) for point in self.focus]
        return request

    def write_question(self, folder: Path, check: ProgressCallback) -> dict[str, Any]:
        """The same for an estimate, which makes do with a sample where the volume is large."""
        image = self.source.image
        name = (jobs.write_image(folder, image, progress=check) if image.data.nbytes < _MOST_COPIED_BYTES
                else jobs.write_stand_in(folder, image))
        return self._request() | {"image": name}

    def reason_to_stop(self) -> str:
        """A sentence once the volume has gone; empty before."""
        return _GONE.format(name=self.source.name) if self.source.is_gone else ""

    def _request(self) -> dict[str, Any]:
        return {"model": self.model_name, "roi": self.box and [list(side) for side in self.box], **self.options}


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Parameters
    ----------
    node : the segmentation node
    labels : (k, j, i)
    record : of the run
    identity : of the volume, for the journal of corrections
    doubts : places that the model is least sure of, the least sure first; empty unless asked for
    doubt_node : volume node of how unsure it is; None unless asked for
    """

    order: Order
    node: Any
    labels: NDArray[Any]
    record: dict[str, Any]
    identity: ImageIdentity
    doubts: tuple[Any, ...] = ()
    doubt_node: Any = None


@dataclass(frozen=True)
class Found:
    """What the child found, ready to be shown; fields as in `Outcome`, `doubt` (k, j, i) 0 to 1."""

    painted: Painted
    record: dict[str, Any]
    identity: ImageIdentity
    doubts: tuple[Any, ...] = ()
    doubt: NDArray[np.float32] | None = None


def collect(order: Order, answer: dict[str, Any], folder: Path) -> Found:
    """Everything about a result that takes time; for a thread."""
    result = jobs.read_result(folder, answer)
    identity = ImageIdentity.from_json((folder / _IDENTITY).read_text(encoding="utf-8"))
    painted = Painted.of(result.labels, order.model)
    if result.probabilities is None:
        return Found(painted, result.record, identity)
    from mambaseg.learn.uncertainty import doubt_map, least_sure

    kind = order.model.kind
    doubts = least_sure(result.probabilities, result.labels, kind, _N_DOUBTS)
    return Found(painted, result.record, identity, tuple(doubts), doubt_map(result.probabilities, kind))


class MambaSegLogic:
    """Segments volumes.

    Parameters
    ----------
    worker : process that computes; None: one that all logics share
    """

    def __init__(self, worker: jobs.Worker | None = None) -> None:
        self._worker = worker

    @property
    def worker(self) -> jobs.Worker:
        """The process that computes; it starts with its first job."""
        if self._worker is not None:
            return self._worker
        if not _shared:
            _shared.append(jobs.Worker(python_command()))
        return _shared[0]

    def close(self) -> None:
        """End the process that computes; it starts again when it is needed."""
        worker, self._worker = self._worker, None
        for each in (worker, *_shared):
            if each is not None:
                each.close()
        _shared.clear()

    def order(self, volumeNode: Any, model: str, *, roiNode: Any = None, sliceNode: Any = None,
              viewNodes: Sequence[Any] | None = None, maskNode: Any = None, tta: bool = False, device: str = "auto",
              certainty: bool = False, frame: int | None = None) -> Order:
        """Look at what is asked for, before anything runs.

        Parameters
        ----------
        model : a bundled name ("hippocampus-mri") or the folder of a model package
        roiNode : markups region: only inside the box around it
        sliceNode : slice view: only the slice that it shows
        viewNodes : slice views: only what lies within the frames of all of them
        maskNode : segmentation: only inside its segments
        tta : average over mirror images: 2 to 8 times the work, a little better
        device : auto, cpu, cuda, mps
        certainty : also make a volume of how unsure the model is
        frame : number of one volume of the sequence that `volumeNode` shows; None: the one shown

        Raises
        ------
        UserError : the volume, the model or the region cannot be used
        """
        source = read_volume(volumeNode, None if frame is None else frames_of(volumeNode)[frame])
        if frame is None and sequence_of(volumeNode) is not None:
            frame = shown_frame(volumeNode)
        described = read_model(resolve(model))
        box = None
        if roiNode is not None:
            box = region_box(source, roiNode)
        elif sliceNode is not None:
            box = slice_box(source, sliceNode)
        elif viewNodes is not None:
            box = view_box(source, viewNodes)
        mask = None if maskNode is None else layers(maskNode)
        return Order(source, described, model, box, mask, {"tta": tta, "device": device}, focus_of(source), certainty,
                     frame)

    def start(self, order: Order, listener: Listener) -> Run:
        """Begin to segment; `Listener.finished` gets an `Outcome`. Call `Run.poll` from a timer, then `Run.close`."""
        view = _View(order, listener)
        return Run(self.worker, "segment", order.write_request, functools.partial(collect, order),
                   Listener(view.progressed, listener.finished, view.failed, view.cancelled), order.reason_to_stop,
                   view.show)

    def estimate(self, order: Order, listener: Listener) -> Run:
        """Ask what an order will take; `Listener.finished` gets the fields of `mambaseg.Estimate`."""
        return Run(self.worker, "estimate", order.write_question, lambda answer, _: SimpleNamespace(**answer),
                   listener, order.reason_to_stop)

    def segment(self, volumeNode: Any, model: str, *, progress: ProgressCallback | None = None, **options: Any) -> Any:
        """Segment a volume and wait for it.

        Parameters
        ----------
        volumeNode : scalar or vector volume
        model : a bundled name ("hippocampus-mri") or the folder of a model package
        progress : called with reports; raising `mambaseg.Cancelled` in it stops the work
        options : as for `order`

        Returns
        -------
        vtkMRMLSegmentationNode on the volume's grid and under its transform; of a volume of a sequence the node that
        shows the segmentation at this time point, and nothing at those that were not segmented

        Raises
        ------
        UserError : it cannot be done, or it failed
        Cancelled : as raised by `progress`
        """
        found = self._wait(self.order(volumeNode, model, **options), progress)
        return found.node if found.order.frame is None else show_frames(volumeNode, {found.order.frame: found.node})

    def segment_sequence(self, volumeNode: Any, model: str, *, progress: ProgressCallback | None = None,
                         **options: Any) -> Any:
        """Segment every volume of the sequence that a volume node shows.

        Parameters
        ----------
        volumeNode : proxy node of the sequence
        model, progress, options : as for `segment`

        Returns
        -------
        vtkMRMLSequenceNode of segmentations, which the volume's browser steps through with the volumes
        """
        found = {frame: self._wait(self.order(volumeNode, model, frame=frame, **options), progress).node
                 for frame in range(len(frames_of(volumeNode)))}
        return sequence_of(show_frames(volumeNode, found))

    def orders(self, volumeNode: Any, model: str, **options: Any) -> list[Order]:
        """One order for each volume of the sequence that a volume node shows; one where it shows no sequence."""
        frames = range(len(frames_of(volumeNode))) if sequence_of(volumeNode) else [None]
        return [self.order(volumeNode, model, frame=frame, **options) for frame in frames]

    def _wait(self, order: Order, progress: ProgressCallback | None) -> Outcome:
        ends: list[Callable[[], Outcome]] = []
        stops: list[BaseException] = []

        def tell(update: Progress) -> None:
            if progress is not None and not stops:
                try:
                    progress(update)
                except BaseException as stop:  # noqa: BLE001 - raised again below, once the child has stopped
                    stops.append(stop)
                    run.cancel()

        run = self.start(order, Listener(tell, lambda outcome: ends.append(lambda: outcome),
                                         lambda sentence, details: ends.append(lambda: _fail(UserError(sentence))),
                                         lambda: ends.append(lambda: _fail(stops[0] if stops else Cancelled()))))
        try:
            while not ends:
                run.poll()
                time.sleep(_POLL_S)
            return ends[0]()
        finally:
            run.close()


class _View:
    """What a run shows in the scene: pieces as they come, then the result; nothing where it fails."""

    def __init__(self, order: Order, listener: Listener) -> None:
        self._order = order
        self._listener = listener
        self._growing: Growing | None = None
        self._drawn_at_s = 0.0

    def progressed(self, update: Progress) -> None:
        preview = update.preview
        if isinstance(preview, Preview) and not self._order.source.is_gone:
            if self._growing is None:
                self._growing = Growing(self._order.source, self._order.model)
            self._growing.paint(preview)
            if time.monotonic() - self._drawn_at_s > _DRAW_EVERY_S:
                self._growing.draw()
                self._drawn_at_s = time.monotonic()
        self._listener.progressed(update)

    def show(self, found: Found) -> Outcome:
        order = self._order
        if order.source.is_gone:
            raise UserError(order.reason_to_stop())
        node = show_labels(order.source, found.painted, found.record, order.model, order.model_name, self._growing)
        doubt_node = None if found.doubt is None else show_doubt(order.source, found.doubt)
        return Outcome(order, node, found.painted.labels, found.record, found.identity, found.doubts, doubt_node)

    def failed(self, sentence: str, details: str) -> None:
        self._remove()
        self._listener.failed(sentence, details)

    def cancelled(self) -> None:
        self._remove()
        self._listener.cancelled()

    def _remove(self) -> None:
        if self._growing is not None:
            self._growing.remove()


def _fail(error: BaseException) -> Outcome:
    raise error
