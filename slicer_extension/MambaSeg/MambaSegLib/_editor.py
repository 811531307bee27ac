"""The Segment Editor in the card Correct."""

from __future__ import annotations

from typing import Any

import slicer
from MambaSegLib._corrections import Correcting

__all__ = ["Editor"]

_N_UNDO = 10
_TAG = "MambaSegEditor"


class Editor:
    """Slicer's own editor, pointed at a result.

    Parameters
    ----------
    widget : qMRMLSegmentEditorWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget

    def open(self, correcting: Correcting) -> None:
        """Let the tools draw in a result."""
        widget = self._widget
        widget.setMRMLSegmentEditorNode(_settings())
        widget.setMaximumNumberOfUndoStates(_N_UNDO)
        widget.setSegmentationNode(correcting.node)
        widget.setSourceVolumeNode(correcting.source.node)

    def forget_undo(self) -> None:
        """Earlier steps hold labels that are not there any more, and would pass for corrections."""
        self._widget.setMaximumNumberOfUndoStates(0)
        self._widget.setMaximumNumberOfUndoStates(_N_UNDO)


def _settings() -> Any:
    """The editor's settings for this module, a node of the scene; made where there is none."""
    node = slicer.mrmlScene.GetSingletonNode(_TAG, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(_TAG)
        node = slicer.mrmlScene.AddNode(node)
    return node
