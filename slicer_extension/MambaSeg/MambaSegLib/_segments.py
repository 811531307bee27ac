"""Labels as a segmentation node: names, colours, codes; growing while the work runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

import slicer
from mambaseg import words
from mambaseg.models import Model
from mambaseg.progress import Preview
from MambaSegLib._adapt import Source, oriented_image
from MambaSegLib._terminology import entry

__all__ = ["LABEL", "MODEL", "MOST_SEGMENTS", "NUMBERS", "VOLUME", "Growing", "number_of", "relabel", "show_doubt",
           "show_labels", "volume_of"]

MOST_SEGMENTS = 200  # objects with a segment each; Slicer's tables and views grow slow beyond it
LABEL = "MambaSeg.label"  # tag of a segment: its class or object number
MODEL = "MambaSeg.model"  # attribute of a result: what the model is found by
RECORD = "MambaSeg.record"  # attribute of a result: what ran on what, as JSON
VOLUME = "MambaSeg.volume"  # reference of a result to what was segmented
NUMBERS = "MambaSeg.numbers"  # reference of a result to its label map, where there are too many objects

_OPACITY = 0.5


class Growing:
    """A segmentation that fills up while the work runs; `finish` makes it the result, `remove` takes it away."""

    def __init__(self, source: Source, model: Model) -> None:
        names = {1: words.things(model)} if model.kind == "instances" else dict(enumerate(model.classes[1:], 1))
        self._labels = oriented_image(np.zeros(source.shape, np.uint8), source.ijk_to_ras)
        self._array = vtk_to_numpy(self._labels.GetPointData().GetScalars()).reshape(source.shape)
        self.node = _new_node(source, model)
        _fill(self.node, self._labels, {value: (name, "") for value, name in names.items()}, model)

    def paint(self, preview: Preview) -> None:
        """Put one more window in, without drawing it yet."""
        where = tuple(slice(first, first + size)
                      for first, size in zip(preview.start, preview.labels.shape, strict=True))
        self._array[where] = preview.labels

    def draw(self) -> None:
        """Show what was painted."""
        self._labels.GetPointData().GetScalars().Modified()
        self._labels.Modified()

    @property
    def is_gone(self) -> bool:
        """Whether the user threw it away."""
        return self.node.GetScene() is None

    def remove(self) -> None:
        """Take it out of the scene."""
        if not self.is_gone:
            remove_node(self.node)


def show_labels(source: Source, labels: NDArray[Any], record: dict[str, Any], model: Model, model_name: str,
                growing: Growing | None = None) -> Any:
    """The segmentation node of a result, on the volume's grid and under its transform.

    Parameters
    ----------
    labels : (k, j, i); classes, or object numbers
    record : of the run
    model_name : what the model is found by
    growing : becomes the result; None: a new node
    """
    node = growing.node if growing is not None and not growing.is_gone else _new_node(source, model)
    node.GetSegmentation().RemoveAllSegments()
    numbers = np.unique(labels[labels > 0]) if model.kind == "instances" else np.arange(1, len(model.classes))
    if len(numbers) > MOST_SEGMENTS:
        _show_numbers(node, source, labels, model)
        _fill(node, oriented_image((labels > 0).astype(np.uint8), source.ijk_to_ras),
              {1: (words.things(model), model.classes[1])}, model)
    else:
        _fill(node, oriented_image(labels, source.ijk_to_ras), _names(numbers, model), model, _colours(labels, model))
    node.SetAttribute(MODEL, model_name)
    node.SetAttribute(RECORD, json.dumps(record))
    return node


def relabel(node: Any, source: Source, labels: NDArray[Any], model: Model) -> None:
    """Show other labels in a result; segments that stay keep their id, name and colour.

    Parameters
    ----------
    labels : (k, j, i); classes, or object numbers
    """
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    image = oriented_image(labels, source.ijk_to_ras)
    wanted = set(np.unique(labels[labels > 0]).tolist())
    shown = {number_of(segment): (segment, each) for each in segmentation.GetSegmentIDs()
             if number_of(segment := segmentation.GetSegment(each)) is not None}
    for number, (segment, each) in shown.items():
        if model.kind == "instances" and number not in wanted:
            segmentation.RemoveSegment(each)
        else:
            segment.SetLabelValue(number)
            segment.AddRepresentation(kind, image)
    missing = wanted - set(shown)
    if missing:
        _fill(node, image, _names(np.array(sorted(missing)), model), model, _colours(labels, model))
    segmentation.Modified()
    node.Modified()


def number_of(segment: Any) -> int | None:
    """The class or object that a segment stands for; None for one that the user added and nobody has numbered yet."""
    tag = vtk.reference("")
    return int(str(tag)) if segment.GetTag(LABEL, tag) else None


def show_doubt(source: Source, doubt: NDArray[np.float32]) -> Any:
    """A volume node of how unsure the model is, 0 to 1, to lay over the volume."""
    scene = source.node.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(f"{source.name} uncertainty"))
    image = oriented_image(np.zeros((1, 1, 1), np.uint8), np.eye(4))  # only to begin with something
    node.SetAndObserveImageData(image)
    slicer.util.updateVolumeFromArray(node, doubt)
    _place(node, source)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileMagma.txt")
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, 1.0)
    return node


def remove_node(node: Any) -> None:
    """Take a segmentation out of its scene, with what displays it: the scene by itself leaves the display behind."""
    scene = node.GetScene()
    displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for each in (node, *displays):
        scene.RemoveNode(each)


def volume_of(node: Any) -> Any:
    """The volume that a result belongs to; None where it is not there any more."""
    return node.GetNodeReference(VOLUME)


def _new_node(source: Source, model: Model) -> Any:
    scene = source.node.GetScene()
    name = scene.GenerateUniqueName(f"{source.name} {words.things(model)}")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        node.GetDisplayNode().SetOpacity2DFill(_OPACITY)
    node.SetReferenceImageGeometryParameterFromVolumeNode(source.node)
    node.SetNodeReferenceID(VOLUME, source.node.GetID())
    node.SetAndObserveTransformNodeID(source.node.GetTransformNodeID())
    return node


def _fill(node: Any, labels: Any, names: dict[int, tuple[str, str]], model: Model,
          colours: NDArray[np.uint8] | None = None) -> None:
    """Add a segment for each value; they share one array, as Slicer does itself.

    Parameters
    ----------
    names : for each value, what people read, and the class that tells the code
    """
    from mambaseg.overlay import class_colours  # brings scikit-image, which nobody needs before the first result

    table = class_colours(max(names, default=0)) if colours is None else colours
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    for value, (name, class_name) in names.items():
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetLabelValue(int(value))
        segment.SetColor(*(table[value] / 255).tolist())
        segment.SetTerminology(entry(class_name or name, model.description))
        segment.SetTag(LABEL, str(value))
        segment.AddRepresentation(kind, labels)
        segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(name))


def _names(numbers: NDArray[Any], model: Model) -> dict[int, tuple[str, str]]:
    if model.kind != "instances":
        return {int(number): (model.classes[number], model.classes[number]) for number in numbers}
    return {int(number): (f"{model.classes[1]} {number}", model.classes[1]) for number in numbers}


def _colours(labels: NDArray[Any], model: Model) -> NDArray[np.uint8]:
    """A colour a value: fixed for classes; for objects never the same for two that touch."""
    from mambaseg.overlay import class_colours, instance_colours

    colours = class_colours(max(int(labels.max(initial=0)), len(model.classes) - 1))
    if model.kind == "instances":
        chosen = instance_colours(labels)
        colours[:len(chosen)] = chosen
    return colours


def _show_numbers(node: Any, source: Source, labels: NDArray[Any], model: Model) -> None:
    """A label map of all object numbers, for what one segment cannot tell."""
    scene = node.GetScene()
    numbers = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{source.name} {words.things(model)} numbers")
    numbers.SetAndObserveImageData(oriented_image(np.zeros((1, 1, 1), np.uint8), np.eye(4)))
    slicer.util.updateVolumeFromArray(numbers, labels.astype(np.int32))
    _place(numbers, source)
    numbers.CreateDefaultDisplayNodes()
    node.SetNodeReferenceID(NUMBERS, numbers.GetID())


def _place(node: Any, source: Source) -> None:
    """Put a volume node where the source lies."""
    node.CopyOrientation(source.node)
    node.SetAndObserveTransformNodeID(source.node.GetTransformNodeID())
