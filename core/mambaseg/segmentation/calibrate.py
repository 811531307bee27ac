"""How long a window takes on this machine and how much memory it wants: tried out once, corrected by each run."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

import mambaseg
from mambaseg._errors import UserError
from mambaseg.io import atomic_path
from mambaseg.machine import release_freed_memory
from mambaseg.models import Model
from mambaseg.predict.run import predict_logits

__all__ = ["Calibration", "Gauge", "calibrate", "observe"]

_DAY_S = 86_400.0  # a figure from another day may be that of a busier machine
_MAX_ENTRIES = 100
_TIMED_S, _MAX_ROUNDS = 1.5, 5
_FEWEST_WINDOWS = 8  # of a run that is learned from
_TOLERATED = 0.25  # difference that changes nothing

_known: dict[str, Calibration] = {}


@dataclass(frozen=True)
class Calibration:
    """What one window costs.

    Parameters
    ----------
    window_s : seconds for a window through all networks of a group, without mirror images
    window_bytes : memory of this process while it is computed, beyond what stays
    device_bytes : memory of the GPU, 0 on the CPU
    engine_bytes : what the first window of a process brings for good: kernels, thread pools
    measured_s : when, in seconds since 1970
    """

    window_s: float
    window_bytes: int
    device_bytes: int
    engine_bytes: int
    measured_s: float


class Gauge:
    """Most memory that this process holds while the block runs, beyond what it held before; looked at every 2 ms."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._process = psutil.Process()
        self._is_over = threading.Event()
        self._before = 0

    def __enter__(self) -> Gauge:
        self._before = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self.n_bytes = max(self.n_bytes, self._process.memory_info().rss - self._before)


def calibrate(part: Model, networks: Sequence[torch.nn.Module], device: torch.device,
              precision: str) -> tuple[Calibration, bool]:
    """What a window of a group of networks costs here, and whether this process has computed one already.

    Found in this process's memory, in a file of today in the user's cache, or by trying: a few windows, seconds.
    """
    key = _key(part, networks, device, precision)
    if key in _known:
        return _known[key], True
    stored = _read().get(key)
    if stored is not None and 0 <= time.time() - stored.measured_s < _DAY_S:
        return stored, False
    _known[key] = _measure(part, networks, device, precision)
    _write(_read() | {key: _known[key]})
    return _known[key], True


def observe(part: Model, networks: Sequence[torch.nn.Module], device: torch.device, precision: str, seconds: float,
            n_windows: int) -> None:
    """Correct what is remembered by what a run took: it may have been tried out on a busier machine.

    A few windows say too little: the first one of a process takes longer.
    """
    key = _key(part, networks, device, precision)
    kept = _known.get(key) or _read().get(key)
    if kept is None or n_windows < _FEWEST_WINDOWS or abs(seconds / n_windows / kept.window_s - 1) < _TOLERATED:
        return
    _known[key] = replace(kept, window_s=seconds / n_windows, measured_s=time.time())
    _write(_read() | {key: _known[key]})


def _key(part: Model, networks: Sequence[torch.nn.Module], device: torch.device, precision: str) -> str:
    return "|".join((part.checksum or part.name, str(len(networks)), str(part.plan.patch_size), str(device), precision,
                     str(torch.get_num_threads()), torch.__version__, mambaseg.__version__, platform.node()))


def _measure(part: Model, networks: Sequence[torch.nn.Module], device: torch.device, precision: str) -> Calibration:
    """Compute a window several times; the first brings what stays, the second is watched, the others are timed."""
    array = np.random.default_rng(0).normal(size=(part.n_inputs, *part.plan.patch_size)).astype(np.float32)

    def compute() -> None:
        predict_logits(networks, array, part.plan, n_classes=part.n_outputs, device=str(device), precision=precision)

    process = psutil.Process()
    before = process.memory_info().rss
    compute()
    release_freed_memory()
    engine = max(0, process.memory_info().rss - before)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Gauge() as gauge:
        seconds = [_seconds(compute)]
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    while len(seconds) < _MAX_ROUNDS and sum(seconds) < _TIMED_S:
        seconds.append(_seconds(compute))
    release_freed_memory()
    return Calibration(statistics.median(seconds), gauge.n_bytes, on_device, engine, time.time())


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _file() -> Path:
    """Where calibrations are kept for the next process."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mambaseg" / "calibration.json"


def _read() -> dict[str, Calibration]:
    """What is kept; nothing where the file is missing or not as it should be: it can always be measured again."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RuntimeError):
        values = json.loads(_file().read_text(encoding="utf-8"))
        return {key: Calibration(**value) for key, value in values.items()}
    return {}


def _write(known: dict[str, Calibration]) -> None:
    """Keep the latest calibrations, if the file can be written."""
    latest: Iterator[tuple[str, Calibration]] = iter(
        sorted(known.items(), key=lambda item: item[1].measured_s)[-_MAX_ENTRIES:])
    text = json.dumps({key: asdict(value) for key, value in latest}, indent=1)
    with contextlib.suppress(UserError, RuntimeError), atomic_path(_file()) as temporary:
        temporary.write_text(text, encoding="utf-8")
