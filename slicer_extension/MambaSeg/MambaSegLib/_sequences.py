"""4-D data: the volumes of a sequence one by one, and their segmentations as a sequence beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
from mambaseg import UserError
from MambaSegLib._segments import VOLUME, remove_node

__all__ = ["browser_of", "frames_of", "new_sequence", "put_frames", "sequence_of", "shown_frame"]


def browser_of(node: Any) -> Any:
    """The sequence browser that steps through what a node shows; None for an ordinary node."""
    scene = node.GetScene()
    browsers = [scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
                for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode"))]
    return next((browser for browser in browsers if browser.IsProxyNodeID(node.GetID())), None)


def sequence_of(node: Any) -> Any:
    """The sequence whose volumes a node shows; None for an ordinary volume."""
    browser = browser_of(node)
    return None if browser is None else browser.GetSequenceNode(node)


def shown_frame(node: Any) -> int:
    """Number of the time point of a sequence that a node shows."""
    return max(0, browser_of(node).GetSelectedItemNumber())


def frames_of(node: Any) -> list[Any]:
    """The nodes of the sequence that a node shows, in their order.

    Raises
    ------
    UserError : it shows none
    """
    sequence = sequence_of(node)
    if sequence is None or not sequence.GetNumberOfDataNodes():
        raise UserError(f"{node.GetName()} is not a volume of a sequence; choose the volume that a sequence browser "
                        "shows, or segment it as a single volume.")
    return [sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes())]


def new_sequence(node: Any, name: str) -> Any:
    """An empty segmentation for each time point of the sequence that a volume shows, stepped through with it.

    Parameters
    ----------
    node : the volume that shows the sequence
    name : of the node that shows the segmentations in turn

    Returns
    -------
    vtkMRMLSequenceNode, which follows what is drawn
    """
    browser, volumes, scene = browser_of(node), sequence_of(node), node.GetScene()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(f"{name} sequence"))
    sequence.SetIndexName(volumes.GetIndexName())
    sequence.SetIndexUnit(volumes.GetIndexUnit())
    empty = slicer.vtkMRMLSegmentationNode()
    empty.SetName(name)
    for index in range(volumes.GetNumberOfDataNodes()):
        sequence.SetDataNodeAtValue(empty, volumes.GetNthIndexValue(index))
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSaveChanges(sequence, True)  # else the next time point wipes out what was drawn
    return sequence


def put_frames(node: Any, sequence: Any, segmentations: Mapping[int, Any]) -> Any:
    """Move segmentations into the sequence of them that goes along with a volume's.

    Parameters
    ----------
    node : the volume that shows the sequence
    segmentations : by the number of their time point

    Returns
    -------
    The node that shows them in turn
    """
    browser = browser_of(node)
    for index, segmentation in segmentations.items():
        sequence.SetDataNodeAtValue(segmentation, sequence.GetNthIndexValue(index))
        remove_node(segmentation)
    _logic(node.GetScene()).UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    proxy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    proxy.SetNodeReferenceID(VOLUME, node.GetID())
    return proxy


def _logic(scene: Any) -> Any:
    """Slicer's own, or one for scenes outside of Slicer."""
    if hasattr(slicer, "modules") and hasattr(slicer.modules, "sequences"):
        return slicer.modules.sequences.logic()
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    return logic
