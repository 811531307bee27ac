"""4-D data: the volumes of a sequence one by one, and their segmentations as a sequence beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from mambaseg import UserError
from MambaSegLib._segments import remove_node

__all__ = ["frames_of", "sequence_of", "show_frames"]


def sequence_of(node: Any) -> Any:
    """The sequence whose volumes a node shows; None for an ordinary volume."""
    browser = _browser_of(node)
    return None if browser is None else browser.GetSequenceNode(node)


def frames_of(node: Any) -> list[Any]:
    """The volumes of the sequence that a node shows, in their order.

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
    segmentations : nodes in the order of the volumes; they are moved into the sequence
    """
    browser, volumes = _browser_of(node), sequence_of(node)
    scene = node.GetScene()
    name = segmentations[0].GetName()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(f"{name} sequence"))
    sequence.SetIndexName(volumes.GetIndexName())
    sequence.SetIndexUnit(volumes.GetIndexUnit())
    for index, segmentation in enumerate(segmentations):
        sequence.SetDataNodeAtValue(segmentation, volumes.GetNthIndexValue(index))
        remove_node(segmentation)
    browser.AddSynchronizedSequenceNode(sequence)
    _logic(scene).UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    if proxy is not None:
        proxy.SetName(name)
        proxy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    return sequence


def _browser_of(node: Any) -> Any:
    scene = node.GetScene()
    browsers = [scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
                for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode"))]
    return next((browser for browser in browsers if browser.IsProxyNodeID(node.GetID())), None)


def _logic(scene: Any) -> Any:
    """Slicer's own, or one for scenes outside of Slicer."""
    if hasattr(slicer, "modules") and hasattr(slicer.modules, "sequences"):
        return slicer.modules.sequences.logic()
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    return logic
