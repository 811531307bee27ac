"""What a worker and its child say to each other: one JSON object a line.

To the child: ``{"job": 1, "task": ..., "request": ..., "folder": ...}`` and ``{"cancel": 1}``. From it: ``{"event":
"start", "pid": ...}`` first, then progress, result, failed or cancelled, each with the job's number. Whatever else
appears on its output is log text; nothing there is trusted to be well formed.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mambaseg.progress import Preview, Progress

__all__ = ["Event", "decode", "encode", "event_of", "progress_message"]

_MAX_PREVIEW_BYTES = 2**28

Kind = Literal["progress", "result", "failed", "cancelled", "log"]


@dataclass(frozen=True)
class Event:
    """Something that a job has to tell.

    Parameters
    ----------
    kind : "result", "failed" or "cancelled" end a job, exactly one of them; "progress" and "log" come before
    progress : how far it is, for "progress"
    result : plain values, mostly names of files in the job's folder, for "result"; see `mambaseg.jobs.read_result`
    message : a sentence for people, for "failed"; a line that the child printed, for "log"
    details : what a developer would want to know about a failure, for a button "Details"
    """

    kind: Kind
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    message: str = ""
    details: str = ""


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, allow_nan=False).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The message on a line, None where it is anything else."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def progress_message(job: int, update: Progress) -> dict[str, Any]:
    """A report on its way to the worker; previews other than `Preview` must be plain values."""
    preview = update.preview
    if isinstance(preview, Preview):
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(preview.labels).tobytes(), 1)).decode("ascii")
        preview = {"labels": packed, "shape": preview.labels.shape, "start": preview.start, "frame": preview.frame}
    return {"event": "progress", "job": job, "stage": update.stage, "done": update.done, "total": update.total,
            "message": update.message, "preview": preview, "seconds_left": update.seconds_left}


def event_of(message: dict[str, Any]) -> Event | None:
    """The event that a message tells of, None where the message is not as it should be."""
    kind = message.get("event")
    try:
        if kind == "progress":
            return Event("progress", progress=_progress(message))
        if kind == "result" and isinstance(message["result"], dict):
            return Event("result", result=message["result"])
        if kind == "failed":
            return Event("failed", message=str(message["message"]), details=str(message["details"]))
    except (KeyError, TypeError, ValueError, OverflowError, zlib.error):
        return None
    return Event("cancelled") if kind == "cancelled" else None


def _progress(message: dict[str, Any]) -> Progress:
    """The report in a message."""
    left, preview = message["seconds_left"], message["preview"]
    if isinstance(preview, dict) and "labels" in preview:
        preview = _preview(preview)
    return Progress(str(message["stage"]), int(message["done"]), int(message["total"]), str(message["message"]),
                    preview, None if left is None else float(left))


def _preview(packed: dict[str, Any]) -> Preview:
    """The piece of labels in a message."""
    shape = tuple(int(side) for side in packed["shape"])
    n_bytes = int(np.prod(shape, dtype=object))
    if not 0 <= n_bytes <= _MAX_PREVIEW_BYTES:
        raise ValueError(f"a preview of {n_bytes} bytes")
    values = zlib.decompressobj().decompress(base64.b64decode(packed["labels"]), n_bytes + 1)
    frame = packed["frame"]
    return Preview(np.frombuffer(values, np.uint8).reshape(shape), tuple(int(first) for first in packed["start"]),
                   None if frame is None else int(frame))
