"""What the tests of the napari plugin share: a display, a viewer with the panel, one process that computes, models."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REASON = "needs a display of its own: tools/with-display pytest tests/napari (Debian: tools/apt-packages.txt)"

# Warnings of napari and its libraries, not ours; only in this session. Another is in tools/with-display
IGNORED = (
    "ignore:Non-orthogonal slicing:UserWarning",  # napari, of a rotated layer
)


def pytest_configure(config: pytest.Config) -> None:
    for ignored in IGNORED:
        config.addinivalue_line("filterwarnings", ignored)


class Undisplayed(pytest.File):
    """A module that is not even imported, since that would already need Qt."""

    def collect(self) -> list[Any]:
        return [Skipped.from_parent(self, name="all")]


class Skipped(pytest.Item):
    """Stands for the tests of a module."""

    def runtest(self) -> None:
        pytest.skip(REASON)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    has_display = parent.config.pluginmanager.hasplugin("pytestqt.plugin")
    return None if has_display else Undisplayed.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gui)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's list of recent models and projects are neither read nor written."""
    monkeypatch.setenv("MAMBASEG_DATA", str(tmp_path / "data"))
    if "qtpy" in sys.modules:
        from qtpy.QtCore import QSettings

        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings"))


class SharedWorker:
    """One process for all tests, since each new one loads torch; closing a panel does not end it."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.n_closed = 0

    def start(self, *args: Any) -> Any:
        return self._worker.start(*args)

    def close(self) -> None:
        self.n_closed += 1


@pytest.fixture(scope="session")
def process() -> Iterator[Any]:
    from mambaseg.jobs import Worker

    with Worker() as worker:
        yield worker


@pytest.fixture
def worker(process: Any, monkeypatch: pytest.MonkeyPatch) -> SharedWorker:
    shared = SharedWorker(process)
    monkeypatch.setattr("napari_mambaseg._session.Worker", lambda: shared)
    return shared


class Window:
    """A viewer with the panel in it, and what a user does there."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer = viewer
        self.qtbot = qtbot
        self.dock, self.panel = viewer.window.add_plugin_dock_widget("mambaseg", "Segment with U-Mamba")

    def __getitem__(self, name: str) -> Any:
        """The control with this object name."""
        from qtpy.QtWidgets import QWidget

        found = self.panel.findChildren(QWidget, name)
        assert len(found) == 1, f"{len(found)} controls are called {name}"
        return found[0]

    def click(self, name: str) -> None:
        from qtpy.QtCore import QPoint, Qt

        control = self[name]
        assert control.isEnabled(), f"{name} cannot be clicked"
        middle = QPoint(min(12, control.width() // 2), control.height() // 2)
        self.qtbot.mouseClick(control, Qt.MouseButton.LeftButton, pos=middle)

    def choose_model(self, folder: str) -> None:
        self.panel.segment.model.folder_chosen.emit(folder)
        assert self.panel.segment.model.model.folder == Path(folder) or self.panel.segment.model.name == folder

    def wait(self, *, timeout_s: int = 300) -> None:
        """Until nothing runs."""
        self.qtbot.waitUntil(lambda: not self.panel.segmenter.is_busy, timeout=1000 * timeout_s)

    def segment(self, **wait: Any) -> Any:
        """Click, wait, and what was found."""
        self.click("run")
        self.wait(**wait)
        assert self.panel.segmenter.latest is not None, self["message"].text()
        return self.panel.segmenter.latest.layer


@pytest.fixture
def window(make_napari_viewer: Any, qtbot: Any, worker: SharedWorker) -> Callable[..., Window]:
    def make(**options: Any) -> Window:
        return Window(make_napari_viewer(**options), qtbot)

    return make


class Desk:
    """A window with a segmented picture in it, and a mouse."""

    def __init__(self, shown: Any) -> None:
        self.window = shown
        self.teaching = shown.panel.teaching
        self.corrector = self.teaching.corrector
        self.qtbot = shown.qtbot

    @property
    def picture(self) -> Any:
        assert self.corrector.current is not None
        return self.corrector.current

    @property
    def layer(self) -> Any:
        return self.picture.layer

    def segment(self) -> None:
        self.window.segment()
        self.settle()

    def settle(self) -> None:
        """Until what happens off the window's thread has been handed over."""
        self.qtbot.waitUntil(lambda: bool(self.corrector.pictures), timeout=300_000)
        self.qtbot.waitUntil(lambda: not any(each.unchecked for each in self.corrector.pictures)
                             and not self.corrector.background.is_busy, timeout=300_000)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press at the first voxel (y, x), move over the others, release at the last."""
        from qtpy.QtCore import Qt
        from qtpy.QtWidgets import QApplication

        canvas = self.window.viewer.window._qt_viewer.canvas.native
        points = [self._point(place) for place in places]
        self.qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=points[0])
        for point in points[1:]:
            self.qtbot.mouseMove(canvas, point)
            QApplication.processEvents()
        self.qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=points[-1])
        QApplication.processEvents()

    def click(self, *place: float) -> None:
        self.drag(place)

    def press(self, key: Any, *modifier: Any) -> None:
        from qtpy.QtWidgets import QApplication

        canvas = self.window.viewer.window._qt_viewer.canvas.native
        canvas.setFocus()
        QApplication.processEvents()
        self.qtbot.keyClick(canvas, key, *modifier)
        QApplication.processEvents()

    def _point(self, place: tuple[float, ...]) -> Any:
        import numpy as np
        from qtpy.QtCore import QPoint

        viewer = self.window.viewer
        canvas = viewer.window._qt_viewer.canvas.native
        camera = getattr(viewer, "scene", viewer).camera
        world = np.asarray(self.layer.data_to_world((*(0,) * (self.layer.ndim - 2), *place)))[-2:]
        y, x = (world - np.asarray(camera.center)[-2:]) * camera.zoom
        return QPoint(round(canvas.width() / 2 + x), round(canvas.height() / 2 + y))

    def assert_kept(self) -> None:
        """What a fresh program would read from the disk is what the layer shows."""
        import numpy as np

        from mambaseg.learn import Project

        self.settle()
        project = Project.open(self.picture.project.folder)
        try:
            np.testing.assert_array_equal(project.image(self.picture.image.identity).labels(), self.layer.data)
        finally:
            project.close()


@pytest.fixture
def desk(window: Any, models: Any) -> Callable[..., Desk]:
    def make(kind: str = "classes", *, adapt: bool = False, picture: Any = None, **options: Any) -> Desk:
        shown = window(show=True)
        import numpy as np

        values = np.random.default_rng(0).random((64, 64)) if picture is None else picture
        shown.viewer.add_image(values, name="cells", **options)
        shown.choose_model(models(channels=("grey",), kind=kind))
        made = Desk(shown)
        made.segment()
        if shown["adapt"].isChecked() != adapt:
            shown["adapt"].setChecked(adapt)
        return made

    return make
