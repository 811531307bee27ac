"""Lines between a worker and its child, whole and hostile."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg.jobs.messages import Event, decode, encode, event_of, progress_message
from mambaseg.progress import Preview, Progress


def sent(update: Progress) -> Progress:
    message = decode(encode(progress_message(1, update)))
    assert message is not None
    event = event_of(message)
    assert event is not None
    assert event.progress is not None
    return event.progress


def test_progress_arrives_as_it_was() -> None:
    update = Progress("Segmenting", 31, 120, "time point 2 of 5 \u00b5", {"loss": [0.5]}, 6.25)
    assert sent(update) == update
    assert sent(Progress("Preparing", 0, 0)) == Progress("Preparing", 0, 0)


def test_a_preview_arrives_as_it_was() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (3, 4, 5)).astype(np.uint8)
    preview = sent(Progress("Segmenting", 1, 2, preview=Preview(labels.transpose(2, 0, 1), (7, 0, 1), 4))).preview
    np.testing.assert_array_equal(preview.labels, labels.transpose(2, 0, 1))
    assert (preview.start, preview.frame) == ((7, 0, 1), 4)


GOOD = progress_message(1, Progress("Segmenting", 1, 2, preview=Preview(np.zeros((2, 2), np.uint8), (0, 0))))


@pytest.mark.parametrize("changed", [
    {"event": "party"}, {"event": ["progress"]}, {"done": "many"}, {"done": float("1e999")}, {"seconds_left": {}},
    {"preview": {"labels": "!"}}, {"preview": GOOD["preview"] | {"shape": [10**9, 10**9]}},
    {"preview": GOOD["preview"] | {"shape": [3, 3]}}, {"preview": GOOD["preview"] | {"shape": [-1]}},
    {"preview": GOOD["preview"] | {"start": None}}, {"event": "result"}, {"event": "result", "result": 5},
    {"event": "failed"},
])
def test_a_message_that_is_not_as_it_should_be_is_no_event(changed: dict[str, Any]) -> None:
    assert event_of(GOOD) is not None
    assert event_of(GOOD | changed) is None


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: json.dumps(text).encode()),
                 st.binary(max_size=30).map(lambda noise: encode(GOOD)[:100] + noise)))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    message = decode(line)
    assert message is None or event_of(message) is None or isinstance(event_of(message), Event)


def test_deeply_nested_json_is_a_line_of_the_log() -> None:
    assert decode(b"[" * 100_000) is None
