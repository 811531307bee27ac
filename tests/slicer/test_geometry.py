"""Volumes become images, and segments labels, exactly where they lie."""

import numpy as np
import pytest
import vtk

import mambaseg
import slicer
import slicer_stand_in  # noqa: F401 - brings slicer
from mambaseg import UserError
from mambaseg.orientation import orientation_of
from MambaSegLib._adapt import layers, mask_of, oriented_image, read_volume, vtk_matrix
from MambaSegLib._where import region_box, slice_box, view_box

ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def under(node, matrix):
    """Put a node under a transform."""
    transform = node.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    transform.SetMatrixTransformToParent(vtk_matrix(np.asarray(matrix, float)))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def world_of(source, k, j, i):
    """Where the image's own grid says that a voxel lies, in Slicer's frame."""
    return np.array([-1, -1, 1]) * (source.image.grid.affine_xyz @ [i, j, k, 1])[:3]


def test_oblique_flipped_anisotropic_volume(volume, oblique):
    source = read_volume(volume(ARRAY, oblique))
    assert len(orientation_of(source.image.grid)) == 3  # Slicer knows how the patient lies
    assert source.image.axes == "ZYX"
    assert source.image.grid.unit == "mm"
    np.testing.assert_allclose(source.image.grid.spacing, (2.5, 1.1, 0.7), rtol=1e-12)
    np.testing.assert_allclose(world_of(source, 3, 1, 2), (oblique @ [2, 1, 3, 1])[:3], atol=1e-9)
    np.testing.assert_array_equal(source.image.data, ARRAY)


def test_linear_transforms_count_as_if_they_were_hardened(volume, oblique):
    turn = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    scale = np.diag([2.0, 2.0, 2.0, 1.0])
    node = volume(ARRAY, oblique)
    inner = under(node, scale)
    under(inner, turn)
    source = read_volume(node)
    np.testing.assert_allclose(source.image.grid.spacing, (5.0, 2.2, 1.4), rtol=1e-9)
    np.testing.assert_allclose(world_of(source, 3, 1, 2), (turn @ scale @ oblique @ [2, 1, 3, 1])[:3], atol=1e-9)
    np.testing.assert_allclose(source.ijk_to_ras, oblique)
    node.HardenTransform()
    assert read_volume(node).image.grid.is_close(source.image.grid, 1e-9)


def test_shear_is_refused_with_a_reason(volume):
    node = volume(ARRAY)
    under(node, [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(UserError, match=r"^CT lies under the transform T, which shears it, .* resample the volume\.$"):
        read_volume(node)


def test_bending_is_refused_with_a_reason(scene, volume):
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for x in range(3):
        for which in points:
            which.InsertNextPoint(x * 10.0, x * x, 5.0 * (which is points[1]) * (x == 1))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(points[0])
    spline.SetTargetLandmarks(points[1])
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Acquisition")
    transform.SetAndObserveTransformToParent(spline)
    node = volume(ARRAY)
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(UserError, match=r"^CT lies under the transform Acquisition, which bends space .*uneven slices"):
        read_volume(node)


@pytest.mark.parametrize(("shape", "dtype", "axes", "is_rgb", "n_channels"), [
    ((4, 5, 6, 3), np.uint8, "CZYX", True, 3),
    ((1, 5, 6, 4), np.uint8, "CZYX", True, 3),  # the fourth is alpha
    ((4, 5, 6, 3), np.float32, "CZYX", False, 3),  # a vector field is no picture
    ((4, 5, 6, 2), np.uint16, "CZYX", False, 2),
])
def test_vector_volumes(volume, shape, dtype, axes, is_rgb, n_channels):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    image = read_volume(volume(array)).image
    assert (image.axes, image.is_rgb, image.n_channels) == (axes, is_rgb, n_channels)
    np.testing.assert_array_equal(image.data, np.moveaxis(array, 3, 0)[:n_channels])


@pytest.mark.parametrize("folder", ["data/ct3d/images", "data/zoo/nifti", "data/zoo/nrrd"])
def test_real_volumes_are_read_as_the_shell_reads_them(scene, shared, folder):
    n_read = 0
    for path in sorted((shared / folder).iterdir()):
        try:
            image, node = mambaseg.read(path), slicer.util.loadVolume(path)
        except (UserError, RuntimeError):  # meant to be broken, or a header of another file
            continue
        if image.axes != "ZYX" or image.grid.unit != "mm":
            continue
        source = read_volume(node)
        if not np.array_equal(source.image.data, image.data):
            source = source.turned  # Slicer keeps the slices of a left-handed volume the other way round
        np.testing.assert_array_equal(source.image.data, image.data)
        assert source.image.grid.is_close(image.grid), path.name
        n_read += 1
    assert n_read >= 4


def test_pixels_outlive_the_node(scene, volume):
    node = volume(ARRAY)
    source = read_volume(node)
    scene.RemoveNode(node)
    del node
    assert source.is_gone
    np.testing.assert_array_equal(source.image.data, ARRAY)


def test_name_of_a_dicom_volume_goes_nowhere(volume):
    from mambaseg.learn import identify

    node = volume(ARRAY, name="Doe John 1950")
    assert identify(read_volume(node).image).name == "Doe John 1950"
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert identify(read_volume(node).image).name == ""


def test_what_is_no_volume_is_a_sentence(scene, volume):
    for node, sentence in ((None, "No volume is chosen"),
                           (scene.AddNewNodeByClass("vtkMRMLModelNode", "Skin"), "Skin is not a volume"),
                           (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty"), "Empty has no voxels"),
                           (scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Map"), "Map is not a volume")):
        with pytest.raises(UserError, match=f"^{sentence}"):
            read_volume(node)


# --- regions, slices, masks ---


def region(scene, centre, size):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    node.SetCenter(centre)
    node.SetSize(size)
    return node


def test_region_holds_the_voxels_whose_centres_lie_in_it(scene, volume):
    source = read_volume(volume(ARRAY, np.diag([2.0, 1.0, 1.0, 1.0])))
    # x: centres at 0, 2, 4, .. of which 2 and 4 lie between 1.5 and 4.5; y: 1 to 3; z: beyond the volume's end
    assert region_box(source, region(scene, (3, 2, 3), (3, 2, 4))) == ((1, 4), (1, 4), (1, 3))


def test_region_and_volume_under_transforms(scene, volume, oblique):
    node = volume(ARRAY, oblique)
    chosen = region(scene, (0, 0, 0), (1, 1, 1))
    transform = under(chosen, oblique @ [[1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 1, 1], [0, 0, 0, 1]])
    assert region_box(read_volume(node), chosen) == ((1, 2), (3, 4), (2, 3))
    assert transform.GetName() == "T"


def test_region_beside_the_volume_is_a_sentence(scene, volume):
    with pytest.raises(UserError, match=r"^The region R holds no voxel of CT; move or enlarge it\.$"):
        region_box(read_volume(volume(ARRAY)), region(scene, (100, 0, 0), (5, 5, 5)))


@pytest.mark.parametrize(("column", "axis"), [(0, 2), (1, 1), (2, 0)])
def test_slice_of_an_oblique_volume(scene, volume, oblique, column, axis):
    source = read_volume(volume(ARRAY, oblique))
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    directions = oblique[:3, :3] / np.linalg.norm(oblique[:3, :3], axis=0)
    shown = np.eye(4)
    shown[:3, 2] = directions[:, column]
    shown[:3, 0] = directions[:, (column + 1) % 3]
    shown[:3, 1] = directions[:, (column + 2) % 3]
    shown[:3, 3] = (oblique @ [2, 2, 2, 1])[:3]
    view.GetSliceToRAS().DeepCopy(vtk_matrix(shown))
    view.UpdateMatrices()
    box = slice_box(source, view)
    assert box[axis] == (2, 3)
    assert [box[other] for other in range(3) if other != axis] == [
        (0, size) for other, size in enumerate(ARRAY.shape) if other != axis]
    shown[:3, 3] = (oblique @ [200, 200, 200, 1])[:3]
    view.GetSliceToRAS().DeepCopy(vtk_matrix(shown))
    view.UpdateMatrices()
    with pytest.raises(UserError, match="lies beside CT"):
        slice_box(source, view)


def slice_view(scene, name, columns, centre, field, dimensions=(200, 100, 1)):
    """A slice view in the layout: its axes, the point in its middle, and how many mm it shows."""
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
    shown = np.eye(4)
    shown[:3, :3] = np.array(columns, float).T
    shown[:3, 3] = centre
    node.SetDimensions(*dimensions)
    node.SetFieldOfView(*field)
    node.GetSliceToRAS().DeepCopy(vtk_matrix(shown))
    node.UpdateMatrices()
    node.SetMappedInLayout(1)
    return node


def test_view_is_what_lies_in_the_frames_of_all_slice_views(scene, volume):
    source = read_volume(volume(np.zeros((40, 40, 40), np.uint8), np.diag([2.0, 1.0, 1.0, 1.0])))
    axial = slice_view(scene, "Red", np.eye(3), (20, 20, 5), (20, 10, 1))
    # pixels of 0.1 mm, of which the first and last stick out by half of one: x 9.95 to 29.95, y 14.95 to 24.95
    assert view_box(source, [axial]) == ((0, 40), (15, 25), (5, 15))
    coronal = slice_view(scene, "Green", [(1, 0, 0), (0, 0, 1), (0, -1, 0)], (30, 20, 20), (20, 10, 1))
    assert view_box(source, [axial, coronal]) == ((15, 25), (15, 25), (10, 15))
    beside = slice_view(scene, "Yellow", np.eye(3), (500, 20, 5), (20, 10, 1))
    for nodes, sentence in (([axial, beside], "Nothing of CT lies in the slice views"), ([], "No slice view is open")):
        with pytest.raises(UserError, match=sentence):
            view_box(source, nodes)


def test_view_of_an_oblique_volume_along_its_axes_and_askew(scene, volume, oblique):
    source = read_volume(volume(np.zeros((20, 22, 24), np.uint8), oblique))
    directions = oblique[:3, :3] / np.linalg.norm(oblique[:3, :3], axis=0)
    middle = (oblique @ [12, 11, 3, 1])[:3]
    # field of view of 7 x 11 mm on voxels of 0.7 x 1.1 mm: ten by ten voxels around (12, 11), through all slices
    along = slice_view(scene, "Red", directions.T, middle, (7, 11, 1), (70, 110, 1))
    box = view_box(source, [along])
    assert box[0] == (0, 20)
    np.testing.assert_allclose(box[1:], ((6, 16), (7, 17)), atol=1)
    askew = view_box(source, [slice_view(scene, "Red", np.eye(3), middle, (7, 11, 1), (70, 110, 1))])
    seen = np.moveaxis(np.indices(source.shape)[::-1], 0, -1) @ oblique[:3, :3].T + oblique[:3, 3] - middle
    is_in_frame = (np.abs(seen[..., 0]) < 3.4) & (np.abs(seen[..., 1]) < 5.4)
    inside = np.zeros(source.shape, bool)
    inside[tuple(slice(*side) for side in askew)] = True
    assert is_in_frame.any()
    assert inside[is_in_frame].all()


def segmentation(scene, labels, matrix, extent_start=(0, 0, 0)):
    """A segmentation with one segment per label, its labels kept on the given grid."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    image = oriented_image(labels, matrix)
    size = labels.shape[::-1]
    image.SetExtent(*(value for first, n in zip(extent_start, size, strict=True) for value in (first, first + n - 1)))
    for value in range(1, int(labels.max()) + 1):
        segment = slicer.vtkSegment()
        segment.SetName(f"s{value}")
        segment.SetLabelValue(value)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"s{value}")
    return node


def test_cropped_segments_come_back_in_place(scene, volume, oblique):
    source = read_volume(volume(ARRAY, oblique))
    labels = np.zeros((2, 2, 3), np.uint8)
    labels[0, 0], labels[1, 1] = 1, 2
    layer, = layers(segmentation(scene, labels, oblique, (2, 1, 1)))
    ids, found = layer.ids, layer.on_grid(source)
    expected = np.zeros(ARRAY.shape, np.uint8)
    expected[1:3, 1:3, 2:5] = labels
    assert ids == ("s1", "s2")
    np.testing.assert_array_equal(found, expected)
    drawn = layers(segmentation(scene, labels, oblique, (2, 1, 1)))
    np.testing.assert_array_equal(mask_of(source, drawn), expected > 0)


def test_segments_that_stick_out_of_the_volume_are_cut(scene, volume):
    source = read_volume(volume(ARRAY))
    found = layers(segmentation(scene, np.ones((2, 2, 2), np.uint8), np.eye(4), (-1, 4, 3)))[0].on_grid(source)
    assert np.argwhere(found).tolist() == [[3, 4, 0]]


def test_segments_on_another_grid_are_resampled_to_the_nearest(scene, volume):
    source = read_volume(volume(ARRAY))
    labels = np.zeros((8, 10, 12), np.uint8)  # half the voxel size, the same place
    labels[2:6, 2:6, 2:6] = 1
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    matrix[:3, 3] = -0.25
    found = layers(segmentation(scene, labels, matrix))[0].on_grid(source)
    expected = np.zeros(ARRAY.shape, np.uint8)
    expected[1:3, 1:3, 1:3] = 1
    np.testing.assert_array_equal(found, expected)


def test_segmentation_under_the_volumes_own_transform(scene, volume, oblique):
    node = volume(ARRAY, oblique)
    transform = under(node, [[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    labels = (ARRAY % 7 == 0).astype(np.uint8)
    segments = segmentation(scene, labels, oblique)
    segments.SetAndObserveTransformNodeID(transform.GetID())
    found = layers(segments)[0].on_grid(read_volume(node))
    np.testing.assert_array_equal(found, labels)
