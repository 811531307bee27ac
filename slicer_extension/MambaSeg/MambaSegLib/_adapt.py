"""From a volume node to an `Image` that lies exactly where the volume lies, and what else of a scene a run takes in.

MRML is RAS, `Image` LPS as ITK; arrays are k, j, i. A linear parent transform counts as if it were hardened: the
network sees the volume's voxel sizes and directions in the world. The result lies on the volume's own grid, under the
same transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer
from mambaseg import Grid, Image, UserError

__all__ = ["Box", "Layer", "Source", "empty_image", "label_type", "layers", "mask_of", "matrix_of", "oriented_image",
           "read_volume", "vtk_matrix"]

Box = tuple[tuple[int, int], ...]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NON_LINEAR = ("{name} lies under the transform {transform}, which bends space (Slicer adds one to DICOM series with "
               "uneven slices), so it has no voxel grid; harden the transform in the module Data, then segment again.")
_SHEARING = ("{name} lies under the transform {transform}, which shears it, so its axes are no longer at right angles; "
             "use a transform that only moves, turns and scales, or resample the volume.")


@dataclass(frozen=True)
class Source:
    """A volume as it was at one moment.

    Parameters
    ----------
    image : its pixels, not copied, with the grid in the world
    ijk_to_ras : (4, 4), the volume's own, without parent transforms
    ijk_to_world : (4, 4), with them
    node : the volume node
    """

    image: Image
    ijk_to_ras: NDArray[np.float64]
    ijk_to_world: NDArray[np.float64]
    node: Any

    @property
    def name(self) -> str:
        """Of the volume, for people."""
        return self.image.source or "The volume"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of labels: k, j, i."""
        return self.image.grid.shape

    @property
    def turned(self) -> Source:
        """The same voxels in the same places, the slices counted from the other end."""
        turn = np.diag([1.0, 1.0, -1.0, 1.0])
        turn[2, 3] = self.shape[0] - 1
        image = self.image
        data = np.flip(image.data, image.axes.index("Z"))
        grid = _grid(self.shape, self.ijk_to_world @ turn)
        other = Image(data, image.axes, grid, image.channel_names, image.is_rgb, image.source, image.metadata)
        return Source(other, self.ijk_to_ras @ turn, self.ijk_to_world @ turn, self.node)

    @property
    def is_gone(self) -> bool:
        """Whether the volume was removed from the scene, or the scene was closed."""
        return self.node.GetScene() is None


def read_volume(node: Any, frame: Any = None) -> Source:
    """A volume node's pixels and place.

    Parameters
    ----------
    node : scalar or vector volume; three or four components of 8 bits are a colour picture
    frame : volume of a sequence whose voxels are meant, `node` being the one that shows it; None: those of `node`

    Raises
    ------
    UserError : no volume, no voxels, or a parent transform that bends or shears
    """
    if node is None:
        raise UserError("No volume is chosen; load one and choose it as the image.")
    name = node.GetName() or "The volume"
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise UserError(f"{name} is not a volume with intensities; choose the volume that is to be segmented.")
    frame = node if frame is None else frame
    data = frame.GetImageData()
    if data is None or data.GetPointData().GetScalars() is None or min(data.GetDimensions()) < 1:
        raise UserError(f"{name} has no voxels; load it again, or choose another volume.")
    array = _array(data)
    matrix = vtk.vtkMatrix4x4()
    frame.GetIJKToRASMatrix(matrix)
    own = matrix_of(matrix)
    transform = node.GetParentTransformNode()
    world = own if transform is None else _to_world(transform, name) @ own
    shape = array.shape[:3]
    grid = _own_grid(frame, shape) if transform is None else _grid(shape, world)
    if transform is not None and grid.is_sheared and not _grid(shape, own).is_sheared:
        raise UserError(_SHEARING.format(name=name, transform=transform.GetName()))
    is_rgb = array.ndim == 4 and array.shape[3] in (3, 4) and array.dtype == np.uint8
    if array.ndim == 4:
        array = np.moveaxis(array[..., :3] if is_rgb else array, 3, 0)
    metadata = {"format": "DICOM"} if node.GetAttribute("DICOM.instanceUIDs") else {}
    image = Image(array, "CZYX" if array.ndim == 4 else "ZYX", grid, (), is_rgb, name, metadata)
    return Source(image, own, world, node)


@dataclass(frozen=True)
class Layer:
    """The labels of segments that share an array, as they were at one moment; nothing in it belongs to the scene.

    Parameters
    ----------
    ids : of the segments; each has its own value in the array (`vtkSegment.GetLabelValue`)
    array : (k, j, i), a copy; segments are stored cropped
    first : i, j, k of its first voxel
    ijk_to_world : (4, 4)
    """

    ids: tuple[str, ...]
    array: NDArray[Any]
    first: tuple[int, ...]
    ijk_to_world: NDArray[np.float64]

    def on_grid(self, source: Source) -> NDArray[Any]:
        """The labels on a volume's grid, (k, j, i), in any thread: pasted where the grids agree, else the nearest."""
        relative = np.linalg.inv(source.ijk_to_world) @ self.ijk_to_world
        shift = np.rint(relative[:3, 3]).astype(int)
        expected = np.eye(4)
        expected[:3, 3] = shift
        if np.abs(relative - expected).max() > 1e-3 / max(source.shape):
            return self._resampled(relative, source.shape)
        starts = (np.array(self.first) + shift)[::-1]
        stops = starts + self.array.shape
        target = tuple(slice(max(0, a), min(size, b)) for a, b, size in zip(starts, stops, source.shape, strict=True))
        labels = np.zeros(source.shape, self.array.dtype)
        if all(part.start < part.stop for part in target):
            labels[target] = self.array[tuple(slice(part.start - a, part.stop - a)
                                              for part, a in zip(target, starts, strict=True))]
        return labels

    def _resampled(self, relative: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[Any]:
        from scipy.ndimage import affine_transform  # nobody needs it as long as the grids agree

        back = np.linalg.inv(relative)  # of the volume's voxels to those of the array
        offset = back[:3, 3] - self.first
        return affine_transform(self.array, back[2::-1, 2::-1], offset[::-1], shape, order=0,
                                mode="grid-constant")


def layers(segmentation: Any, parent: Any = None) -> list[Layer]:
    """A copy of what is drawn in a segmentation; takes as long as copying it. Empty where there are no segments.

    Parameters
    ----------
    segmentation : vtkSegmentation, or the node that holds one
    parent : transform that it lies under; of a node its own
    """
    if segmentation.IsA("vtkMRMLSegmentationNode"):
        segmentation, parent = segmentation.GetSegmentation(), segmentation.GetParentTransformNode()
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    if not segmentation.GetNumberOfSegments() or not segmentation.CreateRepresentation(kind):
        return []
    between = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(parent, None, between)
    found = []
    for index in range(segmentation.GetNumberOfLayers(kind)):
        image = segmentation.GetLayerDataObject(index, kind)
        if image is None or min(image.GetDimensions()) < 1:
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        ids = tuple(str(each) for each in segmentation.GetSegmentIDsForLayer(index, kind))
        found.append(Layer(ids, _array(image).copy(), tuple(image.GetExtent()[::2]),
                           matrix_of(between) @ matrix_of(matrix)))
    return found


def mask_of(source: Source, drawn: list[Layer]) -> NDArray[np.bool_]:
    """Voxels that lie in any segment, (k, j, i)."""
    mask = np.zeros(source.shape, bool)
    for layer in drawn:
        mask |= layer.on_grid(source) != 0
    return mask


def label_type(largest: int) -> type[np.number[Any]]:
    """The smallest type in which Slicer keeps labels up to a number."""
    return np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32


def oriented_image(labels: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> Any:
    """Labels (k, j, i) of a type that Slicer knows as it keeps those of segments; a copy."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*labels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(labels).ravel(), deep=True))
    image.SetImageToWorldMatrix(vtk_matrix(ijk_to_ras))
    return image


def empty_image(shape: tuple[int, ...], ijk_to_ras: NDArray[np.float64]) -> tuple[Any, NDArray[np.uint8]]:
    """Labels of background, and the array (k, j, i) in which they lie."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*shape[::-1])
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.SetImageToWorldMatrix(vtk_matrix(ijk_to_ras))
    array = _array(image)
    array.fill(0)
    return image, array


def matrix_of(matrix: Any) -> NDArray[np.float64]:
    """(4, 4) of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(values: NDArray[np.float64]) -> Any:
    """vtkMatrix4x4 of (4, 4)."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(values, np.float64).ravel().tolist())
    return matrix


def _array(data: Any) -> NDArray[Any]:
    """Scalars as (k, j, i) or (k, j, i, component), a view that stays valid when the node goes."""
    scalars = vtk_to_numpy(data.GetPointData().GetScalars())
    shape = data.GetDimensions()[::-1]
    n_components = data.GetNumberOfScalarComponents()
    return scalars.reshape(shape if n_components == 1 else (*shape, n_components))


def _to_world(transform: Any, name: str) -> NDArray[np.float64]:
    matrix = vtk.vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformToWorld(matrix):
        raise UserError(_NON_LINEAR.format(name=name, transform=transform.GetName()))
    return matrix_of(matrix)


def _own_grid(node: Any, shape: tuple[int, ...]) -> Grid:
    """The grid of a volume without a transform, its spacing free of rounding."""
    directions = np.eye(3)
    node.GetIJKToRASDirections(directions)
    lps = _RAS_TO_LPS[:3, :3] @ directions
    origin = _RAS_TO_LPS[:3, :3] @ node.GetOrigin()
    return Grid(shape, tuple(node.GetSpacing()[::-1]), "mm", tuple(origin), tuple(lps.ravel()), is_of_patient=True)


def _grid(shape: tuple[int, ...], ijk_to_world: NDArray[np.float64]) -> Grid:
    return Grid.from_affine(shape, _RAS_TO_LPS @ ijk_to_world, "mm", is_of_patient=True)
