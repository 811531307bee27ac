"""Labels as a segmentation node: names, colours, codes; growing while the work runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray

import slicer
from mambaseg import words
from mambaseg.models import Model
from mambaseg.progress import Preview
from MambaSegLib._adapt import Source, empty_image, label_type, oriented_image
from MambaSegLib._terminology import entry

__all__ = ["LABEL", "MODEL", "MOST_SEGMENTS", "NUMBERS", "VOLUME", "Growing", "Painted", "number_of", "relabel",
           "remove_node", "show_doubt", "show_labels", "volume_of"]

MOST_SEGMENTS = 200  # objects with a segment each; Slicer's tables and views grow slow beyond it
LABEL = "MambaSeg.label"  # tag of a segment: its class or object number
MODEL = "MambaSeg.model"  # attribute of a result: what the model is found by
RECORD = "MambaSeg.record"  # attribute of a result: what ran on what, as JSON
VOLUME = "MambaSeg.volume"  # reference of a result to what was segmented
NUMBERS = "MambaSeg.numbers"  # reference of a result to its label map, where there are too many objects

_OPACITY = 0.5
_DOUBT_OPACITY = 0.3


@dataclass(frozen=True)
class Painted:
    """Labels with what a scene needs to know about them, made in any thread.

    Parameters
    ----------
    labels : (k, j, i); classes, or object numbers; in the smallest type that holds them
    numbers : that get a segment each: all classes, or the objects that are there
    colours : (value, 3)
    """

    labels: NDArray[Any]
    numbers: tuple[int, ...]
    colours: NDArray[np.uint8]

    @classmethod
    def of(cls, labels: NDArray[Any], model: Model) -> Painted:
        """Look at labels once; takes a second of a large volume."""
        from mambaseg.overlay import class_colours, instance_colours

        largest = int(labels.max(initial=0))
        small = np.ascontiguousarray(labels, label_type(largest))
        colours = class_colours(max(largest, len(model.classes) - 1))
        if model.kind != "instances":
            return cls(small, tuple(range(1, len(model.classes))), colours)
        is_there = np.zeros(largest + 1, bool)
        for plane in small:
            is_there[plane] = True
        numbers = np.flatnonzero(is_there[1:]) + 1
        if len(numbers) <= MOST_SEGMENTS:
            chosen = instance_colours(small)
            colours[:len(chosen)] = chosen
        return cls(small, tuple(numbers.tolist()), colours)

    @property
    def is_crowd(self) -> bool:
        """Whether there are too many objects for a segment each."""
        return len(self.numbers) > MOST_SEGMENTS


class Growing:
    """A segmentation that fills up while the work runs; `finish` makes it the result, `remove` takes it away."""

    def __init__(self, source: Source, model: Model) -> None:
        from mambaseg.overlay import class_colours

        names = {1: words.things(model)} if model.kind == "instances" else dict(enumerate(model.classes[1:], 1))
        self._labels, self._array = empty_image(source.shape, source.ijk_to_ras)
        self.node = _new_node(source, model)
        _fill(self.node, self._labels, {value: (name, "") for value, name in names.items()}, model,
              class_colours(len(names)))

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


def show_labels(source: Source, painted: Painted, record: dict[str, Any], model: Model, model_name: str,
                growing: Growing | None = None) -> Any:
    """The segmentation node of a result, on the volume's grid and under its transform.

    Parameters
    ----------
    record : of the run
    model_name : what the model is found by
    growing : becomes the result; None: a new node
    """
    node = growing.node if growing is not None and not growing.is_gone else _new_node(source, model)
    node.GetSegmentation().RemoveAllSegments()
    if painted.is_crowd:
        _show_numbers(node, source, painted.labels, model)
        _fill(node, oriented_image((painted.labels > 0).astype(np.uint8), source.ijk_to_ras),
              {1: (words.things(model), model.classes[1])}, model, painted.colours)
    else:
        _fill(node, oriented_image(painted.labels, source.ijk_to_ras), _names(painted.numbers, model), model,
              painted.colours)
    node.SetAttribute(MODEL, model_name)
    node.SetAttribute(RECORD, json.dumps(record))
    return node


def relabel(node: Any, source: Source, painted: Painted, model: Model) -> None:
    """Show other labels in a result; segments that stay keep their id, name and colour."""
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    image = oriented_image(painted.labels, source.ijk_to_ras)
    wanted = set(painted.numbers)
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
        _fill(node, image, _names(sorted(missing), model), model, painted.colours)
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
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        view = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        view.SetForegroundVolumeID(node.GetID())
        view.SetForegroundOpacity(_DOUBT_OPACITY)
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


def _fill(node: Any, labels: Any, names: dict[int, tuple[str, str]], model: Model, colours: NDArray[np.uint8]) -> None:
    """Add a segment for each value; they share one array, as Slicer does itself.

    Parameters
    ----------
    names : for each value, what people read, and the class that tells the code
    """
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    for value, (name, class_name) in names.items():
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetLabelValue(int(value))
        segment.SetColor(*(colours[value] / 255).tolist())
        segment.SetTerminology(entry(class_name or name, model.description))
        segment.SetTag(LABEL, str(value))
        segment.AddRepresentation(kind, labels)
        segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(name))


def _names(numbers: Iterable[int], model: Model) -> dict[int, tuple[str, str]]:
    if model.kind != "instances":
        return {number: (model.classes[number], model.classes[number]) for number in numbers}
    return {number: (f"{model.classes[1]} {number}", model.classes[1]) for number in numbers}


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
