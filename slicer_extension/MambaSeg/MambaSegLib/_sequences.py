"""4-D data: the volumes of a sequence one by one, and their segmentations as a sequence beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from mambaseg import UserError
from MambaSegLib._segments import VOLUME, remove_node

__all__ = ["browser_of", "frames_of", "proxy_of", "sequence_of", "show_frames", "shown_frame"]


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


def proxy_of(node: Any, sequence: Any) -> Any:
    """The node that shows a sequence which goes along with that of another node."""
    return browser_of(node).GetProxyNode(sequence)


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


def show_frames(node: Any, segmentations: Sequence[Any]) -> Any:
    """A sequence of segmentations, one a volume, that the volume's browser steps through with it.

    Parameters
    ----------
    node : the volume that shows the sequence
    segmentations : nodes in the order of the volumes; they are moved into the sequence, which then follows what is
        drawn
    """
    browser, volumes = browser_of(node), sequence_of(node)
    scene = node.GetScene()
    name = segmentations[0].GetName()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(f"{name} sequence"))
    sequence.SetIndexName(volumes.GetIndexName())
    sequence.SetIndexUnit(volumes.GetIndexUnit())
    for index, segmentation in enumerate(segmentations):
        sequence.SetDataNodeAtValue(segmentation, volumes.GetNthIndexValue(index))
        remove_node(segmentation)
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSaveChanges(sequence, True)  # else the next time point wipes out what was drawn
    _logic(scene).UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    if proxy is not None:
        proxy.SetName(name)
        proxy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        proxy.SetNodeReferenceID(VOLUME, node.GetID())
    return sequence


def _logic(scene: Any) -> Any:
    """Slicer's own, or one for scenes outside of Slicer."""
    if hasattr(slicer, "modules") and hasattr(slicer.modules, "sequences"):
        return slicer.modules.sequences.logic()
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    return logic
