"""What the tests of the Slicer extension share: a scene, the module in its stand-in, one process that computes, models.

A session of their own, since Slicer's stand-in and napari do not go together: pytest tests/slicer
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
EXTENSION = HERE.parents[1] / "slicer_extension"


def _reason(config: pytest.Config) -> str:
    """Why these tests cannot run here; empty where they can."""
    asked = [Path(each.partition("::")[0]).resolve() for each in config.args]
    if not any(HERE in (each, *each.parents) for each in asked):
        return "run in a session of their own: pytest tests/slicer"
    if importlib.util.find_spec("vtk") is None:
        return "needs slicer-core, which PyPI has for Linux: pip install 'mambaseg[test]'"
    return ""


class Absent(pytest.Module):
    """A module that is not even imported."""

    def collect(self) -> list[Any]:
        pytest.skip(_reason(self.config), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return Absent.from_parent(parent, path=module_path) if _reason(parent.config) else None


def pytest_configure(config: pytest.Config) -> None:
    if not _reason(config):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        sys.path.insert(0, str(EXTENSION / "MambaSeg"))
        import slicer_stand_in  # noqa: F401 - before anybody imports slicer, see there


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slicer)


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's projects are neither read nor written."""
    monkeypatch.setenv("MAMBASEG_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def _stand_in() -> Any:
    import slicer_stand_in

    slicer_stand_in.install()
    return slicer_stand_in


@pytest.fixture
def scene(_stand_in: Any) -> Iterator[Any]:
    """Slicer's scene, empty."""
    import slicer

    slicer.mrmlScene.Clear(1)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(1)


@pytest.fixture(scope="session")
def _worker() -> Iterator[Any]:
    """One process for most tests, since each new one loads torch."""
    from mambaseg.jobs import Worker
    from MambaSegLib.Logic import python_command

    with Worker(python_command()) as worker:
        yield worker


@pytest.fixture
def logic(_stand_in: Any, _worker: Any) -> Any:
    from MambaSegLib import MambaSegLogic

    return MambaSegLogic(_worker)


@pytest.fixture
def window(scene: Any, logic: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module's panel; instant learning is off."""
    import slicer_stand_in

    monkeypatch.setattr("MambaSegLib.Widget.MambaSegLogic", lambda: logic)
    monkeypatch.setattr(logic, "close", lambda: None)  # the process is shared
    opened = slicer_stand_in.Window(root)
    opened.ui.adapt.setChecked(False)
    yield opened
    opened.widget.cleanup()
    opened.top.close()


@pytest.fixture(scope="session")
def models(models: Callable[..., str]) -> Callable[..., str]:
    """Folders of tiny models for volumes of one channel, unless something else is asked for."""
    def model(**changes: Any) -> str:
        return models(**({"ndim": 3, "kind": "classes", "channels": ("MRI",)} | changes))

    return model


@pytest.fixture
def oblique() -> np.ndarray:
    """IJK to RAS of a scan that is turned about two axes, flipped along one, and anisotropic."""
    a, b = np.deg2rad([17.0, -31.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([1, -1, 1]) * (0.7, 1.1, 2.5)
    matrix[:3, 3] = (12.5, -40.25, 7.75)
    return matrix


@pytest.fixture
def volume(scene: Any) -> Callable[..., Any]:
    """Makes a volume node; noise with a bright block unless `array` is given."""
    import slicer
    from MambaSegLib._adapt import vtk_matrix

    def make(array: Any = None, matrix: Any = None, name: str = "CT") -> Any:
        if array is None:
            array = np.random.default_rng(3).normal(100, 10, (20, 22, 24)).astype(np.int16)
            array[6:14, 7:15, 8:16] += 200
        kind = "vtkMRMLVectorVolumeNode" if array.ndim == 4 else "vtkMRMLScalarVolumeNode"
        node = slicer.util.addVolumeFromArray(array, nodeClassName=kind)
        node.SetName(name)
        node.SetIJKToRASMatrix(vtk_matrix(np.eye(4) if matrix is None else matrix))
        return node

    return make
