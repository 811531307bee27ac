"""The results in a scene, each with its volume: a segmentation node, or one time point of a sequence of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import slicer
from MambaSegLib._segments import MODEL, volume_of
from MambaSegLib._sequences import frames_of, new_sequence, put_frames, sequence_of, shown_frame

__all__ = ["IDENTITY", "PROJECT", "Result", "result_of", "results", "results_of", "show_frames"]

PROJECT = "MambaSeg.project"  # attribute of a result: folder of the journal with its corrections
IDENTITY = "MambaSeg.identity"  # attribute of a result: checksum of the volume's voxels


@dataclass(frozen=True)
class Result:
    """One result.

    Parameters
    ----------
    node : segmentation node in the scene; of a sequence the one that shows its time points in turn
    keeper : where its attributes are: `node` itself, or the time point's own node, which shares the segments
    volume : volume node; None where it is not there any more
    frame : of a sequence the time point's volume; else None
    """

    node: Any
    keeper: Any
    volume: Any
    frame: Any = None

    @property
    def name(self) -> str:
        """For people."""
        return str(self.node.GetName())

    @property
    def folder(self) -> str:
        """Of the project with its corrections; empty: nobody has corrected it yet."""
        return self.keeper.GetAttribute(PROJECT) or ""

    @property
    def checksum(self) -> str:
        """Of the voxels that it was made from."""
        return self.keeper.GetAttribute(IDENTITY) or ""

    @property
    def model_name(self) -> str:
        """What its model is found by; empty: it is not one of ours, or a time point that nobody segmented."""
        return self.keeper.GetAttribute(MODEL) or ""

    @property
    def is_gone(self) -> bool:
        """Whether it was removed, or the scene was closed."""
        return self.node.GetScene() is None

    def set(self, attribute: str, value: str) -> None:
        """Write an attribute into the scene; of a time point in view the shown node hands on what it has."""
        for node in {self.keeper, self.node} if self.is_shown else {self.keeper}:
            node.SetAttribute(attribute, value)

    @property
    def is_shown(self) -> bool:
        """Whether it is this time point that is in view."""
        return self.keeper is self.node or self.keeper.GetSegmentation() is self.node.GetSegmentation()


def result_of(node: Any) -> Result:
    """The result in a segmentation node; of a sequence the time point in view."""
    found = results_of(node)
    return found[shown_frame(node)] if len(found) > 1 else found[0]


def results_of(node: Any) -> list[Result]:
    """The result in a segmentation node; of a sequence all of them, in order."""
    volume = volume_of(node)
    if sequence_of(node) is None:
        return [Result(node, node, volume)]
    frames: list[Any] = [None] * len(frames_of(node)) if volume is None else frames_of(volume)
    return [Result(node, keeper, volume, frame) for keeper, frame in zip(frames_of(node), frames, strict=False)]


def results() -> list[Result]:
    """All results of ours in the scene."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
             for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]
    return [result for node in nodes for result in results_of(node) if result.model_name]


def show_frames(volume: Any, segmentations: Mapping[int, Any]) -> Any:
    """Let the sequence browser step through segmentations together with the volumes that they belong to.

    They join the results of the same model where these time points have none yet; else they begin a sequence of their
    own. Time points that were not segmented have empty segmentations there.

    Parameters
    ----------
    volume : the node that shows the sequence of volumes
    segmentations : fresh results by the number of their time point; they are moved into the sequence

    Returns
    -------
    The node that shows them in turn
    """
    first = next(iter(segmentations.values()))
    for node in dict.fromkeys(result.node for result in results() if result.volume is volume and result.frame):
        frames = results_of(node)
        is_same = {frame.model_name for frame in frames} <= {"", first.GetAttribute(MODEL)}
        if is_same and not any(frames[number].model_name for number in segmentations):
            return put_frames(volume, sequence_of(node), segmentations)
    return put_frames(volume, new_sequence(volume, first.GetName()), segmentations)
