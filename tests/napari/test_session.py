"""Work in turn: what gives way, and what is kept from the collector while it runs."""

import gc
import time
from pathlib import Path
from typing import Any

import pytest

from napari_mambaseg._session import Session


@pytest.fixture
def session(worker: Any, qtbot: Any) -> Any:
    made = Session(worker)
    yield made
    made.close()


def test_what_gives_way_is_cancelled_by_any_other_work(session: Any, qtbot: Any, tmp_path: Path) -> None:
    ended: list[str] = []

    def dawdle(folder: Path, check: Any) -> dict[str, Any]:
        while True:
            check()
            time.sleep(0.01)

    first = session.start("warm", dawdle, lambda answer, folder: None, gives_way=True)
    first.cancelled.connect(lambda: ended.append("first"))
    assert not session.is_busy
    second = session.start("warm", lambda folder, check: {}, lambda answer, folder: None)
    second.finished.connect(lambda _: ended.append("second"))
    assert session.is_busy
    qtbot.waitUntil(lambda: ended == ["first", "second"], timeout=300_000)
    assert not session.is_busy


def test_no_full_collection_while_something_runs(worker: Any, qtbot: Any) -> None:
    usual = gc.get_threshold()
    sessions = [Session(worker), Session(worker)]
    runs = [each.start("warm", lambda folder, check: {}, lambda answer, folder: None) for each in sessions]
    assert gc.get_threshold()[:2] == usual[:2]
    assert gc.get_threshold()[2] > 2**20
    qtbot.waitUntil(lambda: all(run.is_over for run in runs), timeout=300_000)
    sessions[0].close()
    qtbot.waitUntil(lambda: gc.get_threshold() == usual, timeout=10_000)
    sessions[1].close()
    assert gc.get_threshold() == usual
