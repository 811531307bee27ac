"""While work runs, and when it does not end as hoped: the window answers, says one sentence, and loses nothing."""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QApplication
from skimage import data

import mambaseg
from napari_mambaseg._session import Session
from napari_mambaseg._writer import RECORD


@pytest.fixture
def busy(window: Any) -> Callable[..., Any]:
    """A window in which a run of several network windows (4; 9 for 512 pixels) has just shown its first piece."""
    def start(side: int = 384, **options: Any) -> Any:
        shown = window(**options)
        shown.viewer.add_image(data.immunohistochemistry()[:side, :side], name="tissue")
        shown.click("run")
        assert not shown["cancel"].isHidden()  # at once, before anything is known
        assert shown["run"].isHidden()
        shown.qtbot.waitUntil(lambda: any(isinstance(layer, Labels) for layer in shown.viewer.layers), timeout=300_000)
        return shown

    return start


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Sentences that napari was asked to show as errors."""
    seen: list[str] = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda notification: seen.append(notification.message))
    return seen


def results(shown: Any) -> list[Labels]:
    return [layer for layer in shown.viewer.layers if isinstance(layer, Labels)]


def test_pieces_appear_while_it_runs_nearest_first(busy: Any) -> None:
    shown = busy(512)
    camera = shown.viewer.scene.camera if hasattr(shown.viewer, "scene") else shown.viewer.camera
    assert camera.center[-2:] == pytest.approx((255.5, 255.5), abs=2)
    partial = results(shown)[0].data
    assert partial[128:384, 128:384].any()  # the window in the middle comes first
    assert not partial[:100, :100].any()
    assert not results(shown)[0].editable
    assert not shown["progress"].isHidden()
    assert shown["progress_line"].text().startswith("Window ")
    shown.wait()
    shown.qtbot.waitUntil(lambda: results(shown)[0].editable, timeout=20_000)  # once its strokes can be kept
    assert results(shown)[0].data.max() > 100


def test_cancel_in_mid_run_leaves_nothing(busy: Any) -> None:
    shown = busy()
    shown.click("cancel")
    assert not shown["cancel"].isEnabled()
    shown.wait(timeout_s=20)
    assert results(shown) == []
    assert not shown["run"].isHidden()
    assert shown["message"].text() == "Stopped."
    assert shown.segment().data.max() > 50  # and the next run is as good as any


def test_deleting_the_image_in_mid_run_does_not_matter(busy: Any) -> None:
    shown = busy()
    shown.viewer.layers.remove("tissue")
    shown.wait()
    assert [layer.name for layer in shown.viewer.layers] == ["tissue nuclei"]


def test_deleting_the_growing_result_stops_the_run(busy: Any) -> None:
    shown = busy()
    shown.viewer.layers.remove(results(shown)[0])
    shown.wait(timeout_s=20)
    assert results(shown) == []
    assert shown.panel.segmenter.latest is None


def test_closing_the_window_in_mid_run_ends_it(busy: Any, worker: Any, qtbot: Any) -> None:
    shown = busy()
    folder = shown.panel.segmenter._run.folder
    shown.viewer.close()
    QApplication.processEvents()
    qtbot.waitUntil(lambda: worker.n_closed == 1, timeout=10_000)
    qtbot.waitUntil(lambda: not folder.exists(), timeout=10_000)


def test_two_runs_follow_one_another(window: Any, models: Any) -> None:
    shown = window()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        shown.viewer.add_image(rng.random((40, 44)), name=name)
    shown.choose_model(models(channels=("grey",), kind="classes"))
    shown["image"].setCurrentIndex(0)
    shown.panel.run()
    shown["image"].setCurrentIndex(1)
    shown.panel.run()
    shown.wait()
    assert {layer.name for layer in results(shown)} == {"one front, back", "two front, back"}


def test_two_windows_work_at_once(window: Any, models: Any, make_napari_viewer: Any) -> None:
    both = [window(), window()]
    folder = models(channels=("grey",), kind="classes")
    for shown in both:
        shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
        shown.choose_model(folder)
        shown.click("run")
    for shown in both:
        shown.wait()
        assert len(results(shown)) == 1


@pytest.mark.parametrize(("shape", "changes", "sentence"), [
    ((40, 44), {"ndim": 3, "kind": "classes", "channels": ("T1",)}, "2-D picture, but .* takes 3-D volumes"),
    ((2, 40, 44), {"channels": ("red", "green", "blue")}, "2 channels, but .* takes 3 channels"),
])
def test_wrong_model_for_the_layer_is_one_sentence(window: Any, models: Any, problems: list[str], shape: Any,
                                                   changes: Any, sentence: str) -> None:
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random(shape), name="cells")
    folder = models(**changes)
    shown.choose_model(folder)
    shown.click("run")
    shown.wait()
    with pytest.raises(mambaseg.UserError, match=sentence) as shell:
        mambaseg.segment(mambaseg.Image.from_array(shown.viewer.layers[0].data, "CYX"[-len(shape):]), folder)
    said = shown["message"].text()
    assert said.removeprefix("cells") == str(shell.value).removeprefix("The image")
    assert problems == [said]
    assert results(shown) == []
    shown.click("details")
    copied = QApplication.clipboard().text()
    assert said in copied
    assert f"mambaseg {mambaseg.__version__}" in copied


def test_broken_model_package_is_one_sentence(window: Any, tmp_path: Path, problems: list[str]) -> None:
    from tiny_models import save_tiny

    folder = tmp_path / "broken"
    save_tiny(folder, channels=("grey",), name="broken")
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(str(folder))
    shown.click("run")
    shown.wait()
    assert "checksum differs" in shown["message"].text()
    assert problems == [shown["message"].text()]


def test_folder_without_a_model_is_one_sentence(window: Any, tmp_path: Path, problems: list[str], qtbot: Any) -> None:
    shown = window()
    former = shown.panel.segment.model.name
    shown.panel.segment.model.folder_chosen.emit(str(tmp_path))
    qtbot.waitUntil(lambda: bool(problems), timeout=300_000)
    assert str(tmp_path) in problems[0]
    assert shown.panel.segment.model.name == former
    assert shown["cancel"].isHidden()


def test_process_that_dies_is_told_and_the_next_run_works(window: Any, models: Any, process: Any,
                                                          problems: list[str]) -> None:
    shown = window()
    shown.viewer.add_image(data.immunohistochemistry()[:384, :384])
    shown.click("run")
    shown.qtbot.waitUntil(lambda: bool(results(shown)), timeout=300_000)
    process._process.kill()
    shown.wait(timeout_s=20)
    assert "ended by the system" in shown["message"].text()
    assert problems == [shown["message"].text()]
    assert results(shown) == []
    shown.viewer.layers.clear()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(models(channels=("grey",), kind="classes"))
    assert shown.segment().data.shape == (40, 44)


def test_estimate_comes_before_the_run(window: Any, qtbot: Any) -> None:
    shown = window()
    shown.viewer.add_image(data.immunohistochemistry()[:200, :200])
    assert shown["estimate"].text() == "Estimating time and memory…"
    qtbot.waitUntil(lambda: shown["estimate"].text().startswith("Will take about"), timeout=300_000)
    assert shown["estimate"].styleSheet() == ""
    shown.viewer.add_image(np.ones((1, 1, 1, 1, 1, 20)), name="odd")
    assert shown["read_as"].text().startswith("odd has 6 axes")
    assert shown["estimate"].text() == ""  # and not that of another image


def test_estimate_says_at_once_that_a_model_does_not_suit(window: Any, models: Any, qtbot: Any) -> None:
    shown = window()
    shown.viewer.add_image(np.random.default_rng(0).random((40, 44)))
    shown.choose_model(models(ndim=3, kind="classes", channels=("T1",)))
    qtbot.waitUntil(lambda: "takes 3-D volumes" in shown["estimate"].text(), timeout=300_000)
    assert "color" in shown["estimate"].styleSheet()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_estimate_is_red_with_a_remedy_where_the_memory_is_too_small(window: Any, qtbot: Any, theme: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    shown = window()
    shown.viewer.theme = theme
    remedy = "There are 9.5 GB free: choose a part of the picture, or close other programs."

    def read(answer: dict[str, Any], folder: Path) -> Any:
        return mambaseg.Estimate(**answer | {"memory_bytes": 4e10, "fits": False, "advice": remedy})

    monkeypatch.setattr("napari_mambaseg._estimator._read", read)
    shown.viewer.add_image(data.immunohistochemistry()[:100, :100], name="tissue")
    qtbot.waitUntil(lambda: shown["estimate"].text().startswith("Will take about"), timeout=300_000)
    assert shown["estimate"].text().endswith(f"40.0 GB. {remedy}")
    red = QColor(shown["estimate"].styleSheet().removeprefix("color: "))
    assert red.red() > 1.2 * max(red.blue(), red.green())
    assert shown["run"].isEnabled()  # it is an estimate
    monkeypatch.undo()
    shown.panel._soon.start()
    qtbot.waitUntil(lambda: shown["estimate"].styleSheet() == "", timeout=300_000)


def test_sliders_cut_the_result_anew(window: Any, qtbot: Any) -> None:
    shown = window()
    picture = data.immunohistochemistry()[100:292, 150:342]
    shown.viewer.add_image(picture)
    layer = shown.segment()
    before, n_before, name = layer.data.copy(), layer.data.max(), layer.name
    said: list[str] = []
    shown.panel.segment.decoding.changed.connect(lambda _: said.append(shown["message"].text()))
    shown["min_size"].setValue(shown["min_size"].maximum() * 3 // 4)
    qtbot.waitUntil(lambda: layer.data.max() < n_before, timeout=300_000)
    assert said == ["Cutting into objects anew…"]
    sizes = np.bincount(layer.data.ravel())[1:]
    settings = shown.panel.segment.decoding.settings
    assert sizes.min() >= settings["min_size"]
    assert len(layer.features) == 1 + layer.data.max()
    assert (layer.name, shown["message"].text()) == (name, f"{layer.data.max()} objects")
    record = layer.metadata[RECORD]
    assert record["settings"]["decoder"]["min_size"] == settings["min_size"]
    assert "tta" in record["settings"]  # of the run, which the sliders did not repeat
    shown["min_size"].setValue(shown["min_size"].maximum() // 2)
    qtbot.waitUntil(lambda: np.array_equal(layer.data, before), timeout=300_000)  # and any number of times


def test_sliders_leave_corrections_alone(window: Any, problems: list[str], qtbot: Any) -> None:
    shown = window()
    shown.viewer.add_image(data.immunohistochemistry()[100:292, 150:342])
    layer = shown.segment()
    layer.paint((50, 50), 999)
    corrected = layer.data.copy()
    shown["split"].setValue(90)
    qtbot.waitUntil(lambda: "You have painted" in shown["message"].text(), timeout=300_000)
    np.testing.assert_array_equal(layer.data, corrected)


def test_event_loop_goes_on_during_a_run(window: Any, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    """From the click to the result the window's thread does little more than poll: nothing of ours lasts a window."""
    work = Work(monkeypatch)
    shown = window(show=True)
    shown.viewer.add_image(data.immunohistochemistry()[:384, :384], name="tissue")
    full: list[str] = []

    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            full.append(phase)

    arrivals: list[float] = []
    shown.panel.segmenter.progressed.connect(
        lambda update, _: arrivals.append(time.perf_counter()) if update.preview else None)
    timer = QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    timer.start()
    gc.callbacks.append(collected)
    beats = [time.perf_counter()]
    try:
        shown.click("run")
        shown.wait()
    finally:
        gc.callbacks.remove(collected)
        timer.stop()
    pauses, a_window = np.diff(beats), float(np.median(np.diff(arrivals)))
    told = {"median_pause_ms": np.median(pauses), "worst_pause_ms": pauses.max(), "own_worst_ms": max(work.own),
            "napari_add_layer_ms": max(work.theirs), "window_ms": a_window}
    for name, seconds in told.items():
        record_property(name, 1000 * float(seconds))
        print(f"{name} {1000 * seconds:.0f}")  # noqa: T201
    assert full == []  # Python walked through all of napari's objects at no time
    assert 0 < max(work.own) < a_window
    assert len(beats) > 50
    assert np.median(pauses) < a_window / 2


class Work:
    """Processor time that the window's thread spends in our slots, and within them in napari's adding of a layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own, self.theirs = [0.0], [0.0]
        self._inside = 0.0
        monkeypatch.setattr(ViewerModel, "add_layer", self._timed(ViewerModel.add_layer, self._of_napari))
        monkeypatch.setattr(Session, "_poll", self._timed(Session._poll, self._of_ours))

    def _timed(self, function: Any, tell: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            start_s = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                tell(time.thread_time() - start_s)

        return timed

    def _of_napari(self, seconds: float) -> None:
        self.theirs.append(seconds)
        self._inside += seconds

    def _of_ours(self, seconds: float) -> None:
        self.own.append(seconds - self._inside)
        self._inside = 0.0
