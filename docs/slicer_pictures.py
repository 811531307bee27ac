"""Draws what the Slicer extension finds: a volume with its segmentation in three slices and in 3-D, without a window.

    python docs/slicer_pictures.py [VOLUME] [MODEL] [-o PICTURE]
    python docs/slicer_pictures.py --scan           an oblique MRI that comes with nibabel, and what is bright in it
    python docs/slicer_pictures.py --panel          the panel, in the tests' stand-in for Slicer

Slicer's own scene, slice views and surface, out of PyPI's slicer-core; not Slicer's window. Without VOLUME it draws the
sample, which was made by a script, with the labels that the script knows: the bundled models were trained on real scans
of one kind and make nothing of it. Needs no display and no Slicer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from PIL import Image
from vtk.util.numpy_support import vtk_to_numpy

import slicer

EXTENSION = Path(__file__).resolve().parents[1] / "slicer_extension"
SAMPLE = EXTENSION / "MambaSeg" / "Resources" / "Samples" / "brain_block.nii.gz"
TRUTH = EXTENSION.parent / "sample_data" / "brain_block_labels.nii.gz"
_ALIVE: list[Any] = []
SIDE_PX = 420
GAP_PX = 4
PANEL_PX = 360
SLICE_MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D")
SPACE_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLViewDisplayableManager",
                  "vtkMRMLModelDisplayableManager", "vtkMRMLSegmentationsDisplayableManager3D")


class View:
    """A render window that nobody sees, with the displayable managers that Slicer itself would use."""

    def __init__(self, logic: Any, node: Any, factory: Any, managers: tuple[str, ...]) -> None:
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(SIDE_PX, SIDE_PX)
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        factory.SetMRMLApplicationLogic(logic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = factory.InstantiateDisplayableManagers(self.renderer)
        self._group.SetMRMLDisplayableNode(node)

    def picture(self) -> np.ndarray:
        """What it shows, (row, column, 3)."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]


def slice_picture(scene: Any, logic: Any, volume: Any, orientation: str, point_ras: np.ndarray) -> np.ndarray:
    """A slice of the volume through a point, with the outlines of the segments."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)  # before the node, else left and right are swapped
    node = scene.CreateNodeByClass("vtkMRMLSliceNode")
    node.UnRegister(None)
    node.SetName(orientation)
    node.SetLayoutName(orientation)
    node = scene.AddNode(node)
    node.SetOrientation(orientation)
    node.SetDimensions(SIDE_PX, SIDE_PX, 1)
    slices = slicer.vtkMRMLSliceLogic()
    slices.SetMRMLApplicationLogic(logic)
    slices.SetMRMLScene(scene)
    slices.SetSliceNode(node)
    logic.GetSliceLogics().AddItem(slices)
    slices.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    slices.FitSliceToBackground()
    node.JumpSliceByOffsetting(*point_ras)
    slices.UpdatePipeline()
    view = View(logic, node, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS)
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(slices.GetImageDataConnection())
    background = vtk.vtkActor2D()
    background.SetMapper(mapper)
    background.GetProperty().SetDisplayLocationToBackground()
    view.renderer.AddViewProp(background)
    return view.picture()


def surface_picture(scene: Any, logic: Any) -> np.ndarray:
    """The segments in 3-D, seen from the left, in front and above."""
    node = scene.AddNewNodeByClass("vtkMRMLViewNode")
    view = View(logic, node, slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), SPACE_MANAGERS)
    view.window.Render()
    camera = view.renderer.GetActiveCamera()
    view.renderer.ResetCamera()
    centre, distance = np.array(camera.GetFocalPoint()), camera.GetDistance()
    camera.SetPosition(*(centre + distance * np.array([-0.6, 0.7, 0.4])))
    camera.SetViewUp(0, 0, 1)
    view.renderer.ResetCamera()
    camera.Zoom(1.2)
    view.renderer.ResetCameraClippingRange()
    return view.picture()


def draw(volume: Any, segmentation: Any, labels: np.ndarray) -> np.ndarray:
    """Axial slice and surface above, coronal and sagittal slices below.

    Parameters
    ----------
    labels : (k, j, i) on the volume's grid; the slices go through their middle
    """
    from MambaSegLib._adapt import read_volume

    scene = volume.GetScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    filled = np.argwhere(labels > 0)
    middle = filled.mean(0) if len(filled) else np.array(labels.shape) / 2
    point = (read_volume(volume).ijk_to_world @ [*middle[::-1], 1])[:3]
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetDisplayNode().SetVisibility2DFill(False)  # outlines leave the picture below to be judged
    segmentation.GetDisplayNode().SetSliceIntersectionThickness(3)
    axial, sagittal, coronal = (slice_picture(scene, logic, volume, name, point)
                                for name in ("Axial", "Sagittal", "Coronal"))
    gap = np.full((SIDE_PX, GAP_PX, 3), 255, np.uint8)
    rows = [np.hstack([axial, gap, surface_picture(scene, logic)]), np.hstack([coronal, gap, sagittal])]
    return np.vstack([rows[0], np.full((GAP_PX, rows[0].shape[1], 3), 255, np.uint8), rows[1]])


def new_scene() -> Any:
    """A scene with what Slicer brings along: colours, and what turns labels into surfaces."""
    scene = slicer.vtkMRMLScene()
    for kind in (slicer.vtkMRMLColorLogic, slicer.vtkSlicerSegmentationsModuleLogic):
        logic = kind()
        logic.SetMRMLScene(scene)
        _ALIVE.append(logic)  # colours go with the logic that brought them
    return scene


def load(scene: Any, path: Path) -> Any:
    """A volume node of a NIfTI or NRRD file."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", path.name.split(".")[0])
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise SystemExit(f"{path} cannot be read; give a NIfTI or NRRD file.")
    show_contrast(node)
    return node


def nibabel_scan(scene: Any) -> tuple[Any, np.ndarray]:
    """The first volume of nibabel's example of a functional MRI, whose slices are tilted, and the head in it."""
    import nibabel
    from skimage.filters import threshold_otsu

    from MambaSegLib._adapt import vtk_matrix

    image = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    array = np.asarray(image.dataobj)[..., 0].T  # k, j, i
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "example4d")
    slicer.util.updateVolumeFromArray(volume, np.ascontiguousarray(array))
    volume.SetIJKToRASMatrix(vtk_matrix(image.affine))
    show_contrast(volume)
    return volume, (array > threshold_otsu(array)).astype(np.uint8)


def show_contrast(volume: Any) -> None:
    """Grey values from nearly the darkest to nearly the brightest."""
    volume.CreateDefaultDisplayNodes()
    low, high = np.percentile(slicer.util.arrayFromVolume(volume), (1, 99.5))
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevelMinMax(float(low), float(high))


def draw_panel(path: Path) -> None:
    """The module's panel with the sample opened; ctk's and MRML's widgets are imitated."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path.insert(0, str(EXTENSION.parent / "tests"))
    import slicer_stand_in

    slicer_stand_in.install()
    module = slicer_stand_in.open_module(EXTENSION / "MambaSeg" / "MambaSeg.py")
    widget, window = slicer_stand_in.open_widget(module)
    window.resize(PANEL_PX, PANEL_PX)
    window.show()
    widget.ui.open_sample.click()
    while not widget.ui.estimate.text:
        slicer.app.processEvents()
        time.sleep(0.05)
    window.adjustSize()
    window.grab().save(str(path))
    widget.cleanup()


def main() -> None:
    """Segment or take the known labels, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", nargs="?", type=Path)
    parser.add_argument("model", nargs="?", default="hippocampus-mri")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--panel", action="store_true")
    parser.add_argument("--scan", action="store_true")
    given = parser.parse_args()
    if given.panel:
        draw_panel(given.output or EXTENSION / "Screenshots" / "2.png")
        return
    sys.path.insert(0, str(EXTENSION / "MambaSeg"))
    from mambaseg import read
    from MambaSegLib import MambaSegLogic
    from MambaSegLib._adapt import layers, read_volume

    scene = new_scene()
    if given.volume is not None:
        volume = load(scene, given.volume)
        logic = MambaSegLogic()
        try:
            segmentation = logic.segment(volume, model=given.model)
        finally:
            logic.close()
    else:
        volume, truth = nibabel_scan(scene) if given.scan else (load(scene, SAMPLE), read(TRUTH).data)
        segmentation = known(volume, truth, given.model)
    labels = sum(layer.on_grid(read_volume(volume)) for layer in layers(segmentation))
    picture = Image.fromarray(np.ascontiguousarray(draw(volume, segmentation, labels)))
    output = given.output or EXTENSION / "Screenshots" / ("3.png" if given.scan else "1.png")
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(128).save(output, optimize=True)
    sys.stdout.write(f"{output}\n")


def known(volume: Any, labels: np.ndarray, model_name: str) -> Any:
    """A segmentation node of labels that no network found."""
    from mambaseg.models import read_model, resolve
    from MambaSegLib._adapt import read_volume
    from MambaSegLib._segments import Painted, show_labels

    model = read_model(resolve(model_name))
    return show_labels(read_volume(volume), Painted.of(labels, model), {}, model, model_name)


if __name__ == "__main__":
    main()
