"""Real child processes: what a window may rely on while it only polls."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

import tiny_models
from mambaseg import Grid, Image, UserError, jobs, segment
from mambaseg.jobs import Event, Job, Worker

ENDS = {"result", "failed", "cancelled"}
PATIENCE_S = 120.0  # a busy machine is not a fault; a child that hangs is


def picture(shape: tuple[int, ...] = (45, 70), seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 255, (3, *shape)).astype(np.uint8)
    return Image(values, "CYX", Grid(shape, (0.5, 0.5), "um"), is_rgb=True, source="noise.png")


def gather(job: Job, until: set[str] = ENDS) -> list[Event]:
    """Events up to the first whose kind is in `until`."""
    events: list[Event] = []
    stop = time.monotonic() + PATIENCE_S
    while time.monotonic() < stop:
        for event in job.poll():
            events.append(event)
            if event.kind in until:
                return events
        time.sleep(0.02)
    raise TimeoutError([event.message for event in events])


def gone_within(pid: int, seconds: float) -> bool:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.save_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def shared_worker() -> Iterator[Worker]:
    """One warm child for the tests that leave it alive."""
    with Worker() as warm:
        yield warm


@pytest.fixture
def folder() -> Path:
    return jobs.new_folder()


def request(folder: Path, image: Image, model: Path | str, **options: Any) -> dict[str, Any]:
    return {"model": str(model), "image": jobs.write_image(folder, image), **options}


@pytest.mark.parametrize("options", [{}, {"tta": True, "roi": [[0, 20], [5, 60]], "keep_probabilities": True}])
def test_a_job_gives_what_a_direct_call_gives(
        shared_worker: Worker, folder: Path, model: Path, options: dict[str, Any]) -> None:
    image = picture()
    job = shared_worker.start("segment", request(folder, image, model, **options), folder)
    event = gather(job)[-1]
    assert event.kind == "result", event
    result, expected = jobs.read_result(folder, event.result), segment(image, model, **options)
    assert result.labels.dtype == expected.labels.dtype
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert expected.features is not None
    assert result.features is not None
    assert len(result.features) > 0
    pd.testing.assert_frame_equal(result.features, expected.features)
    changing = ("seconds", "peak_memory_bytes")
    assert {key: result.record[key] for key in result.record if key not in changing} == {
        key: expected.record[key] for key in expected.record if key not in changing}
    assert (result.probabilities is None) == (expected.probabilities is None)
    if expected.probabilities is not None:
        np.testing.assert_array_equal(result.probabilities, expected.probabilities)
    job.close()
    assert not folder.exists()


def test_progress_counts_the_windows(shared_worker: Worker, folder: Path, model: Path) -> None:
    job = shared_worker.start("segment", request(folder, picture((80, 112)), model), folder)
    updates = [event.progress for event in gather(job) if event.kind == "progress"]
    windows = [update for update in updates if update.stage == "Segmenting"]
    assert [update.done for update in windows] == list(range(windows[0].total + 1))
    assert windows[0].total == 4 * 6  # of 32 pixels, half a window apart
    job.close()


def test_a_mistake_is_told_in_the_sentence_of_the_shell(shared_worker: Worker, folder: Path, model: Path) -> None:
    image = Image(np.zeros((4, 20, 20), np.uint8), "CYX", Grid((20, 20), (1, 1)))
    jobs.write_image(folder, image, "four_channels")
    wrong = [request(folder, picture(), model) | {"image": "four_channels"}, request(folder, picture(), "nuclei-3d"),
             request(folder, picture(), model, device="abacus")]
    for asked in wrong:
        job = shared_worker.start("segment", asked, folder)
        event = gather(job)[-1]
        assert event.kind == "failed"
        given = {key: asked[key] for key in asked if key != "image"}
        with pytest.raises(UserError) as told:
            segment(jobs.read_image(folder, asked["image"]), **given)
        assert event.message == str(told.value)
        assert "Traceback" in event.details


def test_an_unknown_task_is_a_bug_of_the_caller(shared_worker: Worker) -> None:
    with pytest.raises(ValueError, match="no task 'sgement', only warm, segment"):
        shared_worker.start("sgement", {})


def test_jobs_wait_their_turn_and_a_waiting_one_can_be_cancelled(
        shared_worker: Worker, folder: Path, model: Path) -> None:
    asked = request(folder, picture((120, 120)), model)
    first, second, third = (shared_worker.start("segment", asked, folder) for _ in range(3))
    gather(first, {"progress"})
    second.cancel()
    assert [event.kind for event in second.poll()] == ["cancelled"]
    assert first.is_running
    assert gather(first)[-1].kind == "result"
    assert gather(third)[-1].kind == "result"
    for job in (first, second, third):
        assert folder.exists()
        job.close()
    assert not folder.exists()


def test_cancel_stops_within_a_window_and_the_child_lives_on(
        shared_worker: Worker, folder: Path, model: Path) -> None:
    asked = request(folder, picture((1500, 1500)), model)
    job = shared_worker.start("segment", asked, folder)
    while gather(job, {"progress"})[-1].progress.done < 3:  # type: ignore[union-attr]
        pass
    pid = child_of(shared_worker).pid
    job.cancel()
    events = gather(job)
    assert events[-1].kind == "cancelled"
    n_windows = events[0].progress.total if events[0].progress else 0
    assert all(event.progress.done < n_windows for event in events if event.progress)
    assert child_of(shared_worker).pid == pid
    assert gather(shared_worker.start("warm", {}))[-1].kind == "result"


def child_of(warm: Worker) -> psutil.Process:
    assert warm._process is not None
    assert warm._process._real is not None
    return warm._process._real
