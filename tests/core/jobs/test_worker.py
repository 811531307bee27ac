"""Real child processes: what a window may rely on while it only polls."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

import tiny_models
from mambaseg import Estimate, Grid, Image, UserError, jobs, segment
from mambaseg.instances import Decoder
from mambaseg.jobs import Event, Job, Worker
from mambaseg.progress import Progress

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


def next_progress(job: Job) -> Progress:
    """What a job says next of how far it is."""
    progress = gather(job, {"progress"})[-1].progress
    assert progress is not None
    return progress


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
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One warm child for the tests that leave it alive, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
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
    with pytest.raises(ValueError, match="no task 'sgement', only warm, segment, estimate, decode"):
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
    while next_progress(job).done < 3:
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


def test_a_killed_child_fails_its_job_and_the_next_one_works(folder: Path, model: Path) -> None:
    asked = request(folder, picture((1500, 1500)), model)
    with Worker() as worker:
        job = worker.start("segment", asked, folder)
        gather(job, {"progress"})
        child_of(worker).kill()
        event = gather(job)[-1]
        assert event.kind == "failed"
        assert "memory ran out" in event.message
        assert "Traceback" not in event.message
        assert gather(worker.start("warm", {}))[-1].kind == "result"


def test_a_child_that_does_not_answer_is_killed(folder: Path, model: Path) -> None:
    with Worker() as worker:
        job = worker.start("segment", request(folder, picture((1500, 1500)), model), folder)
        while not next_progress(job).total:
            pass  # it still loads
        stuck = child_of(worker)
        stuck.suspend()
        job.cancel()
        assert gather(job)[-1].kind == "cancelled"
        assert gone_within(stuck.pid, 5)


def test_a_child_that_still_loads_is_let_live_by_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mambaseg.jobs.worker.PATIENCE_S", 0.0)
    with Worker() as worker:
        job = worker.start("warm", {})
        gather(job, {"progress"})
        pid = child_of(worker).pid
        job.cancel()
        assert gather(job)[-1].kind == "cancelled"
        assert gather(worker.start("warm", {}))[-1].kind == "result"
        assert child_of(worker).pid == pid


def test_closing_ends_the_child_and_its_jobs(folder: Path, model: Path) -> None:
    worker = Worker()
    asked = request(folder, picture((1500, 1500)), model)
    running, waiting = worker.start("segment", asked, folder), worker.start("segment", asked, folder)
    gather(running, {"progress"})
    child = child_of(worker)
    worker.close()
    assert gone_within(child.pid, 5)
    assert [running.poll()[-1].kind, waiting.poll()[-1].kind] == ["cancelled", "cancelled"]
    with pytest.raises(ValueError, match="closed"):
        worker.start("warm", {})


def test_two_workers_at_once_do_not_mix_their_answers(folder: Path, model: Path) -> None:
    images = {"first": picture(seed=1), "second": picture(seed=2)}
    with Worker() as one, Worker() as other:
        started = {}
        for worker, (name, image) in zip((one, other), images.items(), strict=True):
            place = folder / name
            place.mkdir()
            started[name] = worker.start("segment", request(place, image, model), place)
        for name, job in started.items():
            event = gather(job)[-1]
            np.testing.assert_array_equal(jobs.read_result(job.folder, event.result or {}).labels,
                                          segment(images[name], model).labels)


HOST = """
import sys, time
from mambaseg import jobs
worker = jobs.Worker()
job = worker.start("warm", {})
while not any(event.kind == "progress" for event in job.poll()):
    time.sleep(0.02)
print(worker._process._real.pid, job.folder, flush=True)
time.sleep(600)
"""


def test_a_killed_host_takes_its_child_along_and_its_folder_is_swept_later() -> None:
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pid, folder = host.stdout.readline().split()
        assert Path(folder).is_dir()
        host.kill()
    assert gone_within(int(pid), 5)
    jobs.new_folder()
    Worker().close()
    assert not Path(folder).exists()


def test_a_python_that_is_not_there_is_told() -> None:
    with Worker(["no-such-python"]) as worker:
        (event,) = worker.start("warm", {}).poll()
        assert event.kind == "failed"
        assert event.message.startswith("no-such-python cannot be started")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script as launcher")
def test_a_launcher_in_between_is_ended_too(tmp_path: Path) -> None:
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\necho launching\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    with Worker([str(launcher)]) as worker:
        job = worker.start("warm", {})
        events = gather(job)
        assert events[-1].kind == "result"
        assert worker._process is not None
        real, parent = child_of(worker).pid, worker._process._process.pid
        assert real != parent
    assert gone_within(real, 5)
    assert gone_within(parent, 5)


def test_objects_are_found_again_without_the_network(shared_worker: Worker, folder: Path, model: Path) -> None:
    asked = request(folder, picture(), model)
    first = shared_worker.start("segment", asked | {"keep_probabilities": True}, folder)
    found = jobs.read_result(folder, gather(first)[-1].result or {})
    again = shared_worker.start("decode", asked | {"decoder": {"min_size": 200.0}}, folder)
    fewer = jobs.read_result(folder, gather(again)[-1].result or {})
    assert found.probabilities is not None
    expected = Decoder.from_json({"min_size": 200.0}).decode(found.probabilities)
    np.testing.assert_array_equal(fewer.labels, expected)
    assert fewer.record["n_objects"] == len(fewer.features if fewer.features is not None else []) == expected.max()
    assert found.labels.max() != expected.max()
    again.close()
    assert folder.exists()
    wrong = shared_worker.start("decode", asked | {"decoder": {"seed": 2.0}}, folder)
    assert "must lie between 0 and 1" in gather(wrong)[-1].message
    for job in (first, wrong):
        job.close()
    assert not folder.exists()


def test_a_mask_keeps_the_rest_empty(shared_worker: Worker, folder: Path, model: Path) -> None:
    mask = np.zeros((45, 70), np.uint8)
    mask[10:30, 20:50] = 1
    asked = request(folder, picture(), model, mask=jobs.write_image(folder, mask, "mask"))
    labels = jobs.read_result(folder, gather(shared_worker.start("segment", asked, folder))[-1].result or {}).labels
    assert labels[mask > 0].max() > 0
    assert labels[mask == 0].max() == 0


def test_an_estimate_comes_from_the_child_that_computes(
        shared_worker: Worker, folder: Path, model: Path) -> None:
    event = gather(shared_worker.start("estimate", request(folder, picture((80, 112)), model), folder))[-1]
    assert event.result is not None
    cost = Estimate(**event.result)
    assert cost.n_windows == 4 * 6
    assert cost.fits


def test_previews_arrive_as_they_were_sent(shared_worker: Worker, folder: Path, tmp_path: Path) -> None:
    classes = tiny_models.save_tiny(tmp_path / "classes", kind="classes")
    image = picture((50, 60))
    asked = request(folder, image, tmp_path / "classes")
    events = gather(shared_worker.start("segment", asked, folder))
    canvas = np.full((50, 60), 99, np.uint8)
    for event in events:
        if event.progress is not None and event.progress.preview is not None:
            piece = event.progress.preview
            rows, columns = (slice(first, first + n) for first, n in zip(piece.start, piece.labels.shape, strict=True))
            canvas[rows, columns] = piece.labels
    np.testing.assert_array_equal(canvas, segment(image, classes).labels)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are compared as Linux has them")
def test_the_child_lets_the_window_go_first(shared_worker: Worker, folder: Path, model: Path) -> None:
    gather(shared_worker.start("segment", request(folder, picture(), model), folder))
    child = child_of(shared_worker)
    assert child.nice() > psutil.Process().nice()
    sessions = {os.getsid(process.pid) for process in (child, psutil.Process())}
    assert len(sessions) == 1  # Linux weighs priorities within a session alone
    assert os.getpgid(child.pid) != os.getpgid(0)  # and a Ctrl-C for the window is none for the child


def test_the_host_loads_no_torch() -> None:
    code = "import sys; from mambaseg import jobs; jobs.Worker().close(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          timeout=120).stdout == "False\n"
