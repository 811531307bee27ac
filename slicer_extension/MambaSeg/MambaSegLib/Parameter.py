"""What the panel keeps in the scene, so that a saved scene opens as it was left."""

# No "from __future__ import annotations" here: Slicer looks at the types themselves.
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

__all__ = ["MambaSegParameterNode", "parameters"]


@parameterNodeWrapper
class MambaSegParameterNode:
    """Choices of the panel. Those named in MambaSeg.ui (SlicerParameterName) follow their controls by themselves.

    Parameters
    ----------
    image : volume to segment
    model : what the model is found by; empty: not chosen yet
    where : "whole", "view", "region" or "slice"
    region, mask : segment only inside
    all_frames : every volume of a sequence
    mirror : average over mirror images
    certainty : also show how unsure the model is
    result : what was found last, and is being corrected
    locked : corrections stay when the volume is segmented again
    adapt : learn from each stroke at once
    """

    image: vtkMRMLScalarVolumeNode
    model: str = ""
    where: str = "whole"
    region: vtkMRMLMarkupsROINode
    mask: vtkMRMLSegmentationNode
    all_frames: bool = True
    mirror: bool = False
    certainty: bool = False
    result: vtkMRMLSegmentationNode
    locked: bool = True
    adapt: bool = True


def parameters() -> MambaSegParameterNode:
    """The parameters in the current scene; made where there are none."""
    logic = ScriptedLoadableModuleLogic()
    logic.moduleName = "MambaSeg"  # else the name of the class
    return MambaSegParameterNode(logic.getParameterNode())
