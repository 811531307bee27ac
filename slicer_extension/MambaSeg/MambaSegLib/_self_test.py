"""The module's own test: segments a made volume, corrects it and reads the correction back. For Slicer, unchanged."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

import slicer
from MambaSegLib._adapt import layers, read_volume
from MambaSegLib._corrections import Correcting
from MambaSegLib.Logic import MambaSegLogic

__all__ = ["made_volume", "run_self_test"]


def made_volume(scene: Any) -> Any:
    """A small oblique volume node with a bright bean in it."""
    k, j, i = np.mgrid[:24, :32, :28]
    bean = ((k - 12) / 5) ** 2 + ((j - 16) / 9) ** 2 + ((i - 14) / 5) ** 2 < 1
    array = (100 + 80 * bean + np.random.default_rng(0).normal(0, 8, bean.shape)).astype(np.int16)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "made")
    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASDirections([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]])
    node.SetSpacing(1.0, 1.0, 1.5)
    node.SetOrigin(10, -20, 30)
    return node


def run_self_test(scene: Any, model: str = "hippocampus-mri", logic: MambaSegLogic | None = None) -> Any:
    """Go the whole way once; the segmentation node.

    Raises
    ------
    RuntimeError : a step did not do what it should
    """
    volume = made_volume(scene)
    own = MambaSegLogic() if logic is None else logic
    try:
        result = own.segment(volume, model=model)
    finally:
        if logic is None:
            own.close()
    source = read_volume(volume)
    found = [layer.on_grid(source) for layer in layers(result)]
    _check(len(found) == 1 and found[0].shape == source.shape, "the result does not lie on the volume's grid")
    _check(result.GetSegmentation().GetNumberOfSegments() > 0, "the result has no segments")
    _check(result.GetTransformNodeID() == volume.GetTransformNodeID(), "the result lies elsewhere")
    before = os.environ.get("MAMBASEG_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAMBASEG_DATA"] = folder  # the user's projects are none of a test's business
        try:
            _correct(result, source, found[0])
        finally:
            if before is None:
                del os.environ["MAMBASEG_DATA"]
            else:
                os.environ["MAMBASEG_DATA"] = before
    return result


def _correct(result: Any, source: Any, labels: Any) -> None:
    """Draw something and see that it is known."""
    correcting, _ = Correcting.begin(result, source, labels)
    try:
        segment = result.GetSegmentation().GetNthSegmentID(0)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(result, segment, source.node).copy()
        array[:3, :3, :3] = array[:3, :3, :3] == 0  # other than what was found, whatever that was
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, result, segment, source.node)
        _check(correcting.record(), "what was drawn was not noticed")
        _check(bool(correcting.image.corrections().locked[:3, :3, :3].all()), "what was drawn was not kept")
    finally:
        correcting.close()


def _check(is_so: bool, complaint: str) -> None:
    if not is_so:
        raise RuntimeError(f"MambaSeg's self test failed: {complaint}")
