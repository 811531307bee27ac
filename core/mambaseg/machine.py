"""What this machine is good at, found out by trying: devices, half precision, memory reuse."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from pathlib import Path

import psutil
import torch
from torch.nn import functional

from mambaseg._errors import UserError

__all__ = ["choose_device", "choose_precision", "keep_freed_memory", "peak_memory_bytes",
           "precision_name", "release_freed_memory"]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    UserError : the name is unknown or the device is not there
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"There is no device {name!r}; give auto, cpu, cuda or mps.") from error
    has_cuda = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if not {"cpu": True, "cuda": has_cuda, "mps": torch.backends.mps.is_available()}.get(device.type, False):
        raise UserError(f"The device {name!r} is not available on this machine; give auto or cpu.")
    return device


def choose_precision(name: str, device: torch.device, training: bool = False) -> torch.dtype:
    """The dtype that a network computes in.

    "auto": bfloat16 on a CUDA device that has it. On a CPU single precision for prediction, so that labels do not
    depend on the machine; for training bfloat16 where a short trial shows that it is faster (AMX, AVX512-BF16).

    Raises
    ------
    UserError : the name is none of auto, float32, bfloat16
    """
    if name in _PRECISIONS:
        return _PRECISIONS[name]
    if name != "auto":
        raise UserError(f"There is no precision {name!r}; give auto, {' or '.join(_PRECISIONS)}.")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if training and device.type == "cpu" and _has_fast_bfloat16() else torch.float32


def precision_name(name: str, device: torch.device) -> str:
    """What prediction computes in, for records: "float32", "bfloat16"; see `choose_precision`."""
    return str(choose_precision(name, device)).removeprefix("torch.")


@functools.cache
def _has_fast_bfloat16() -> bool:
    """Whether a bfloat16 convolution takes less than 0.7 of the single-precision one here; tried out in about 0.1 s."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(1, 32, 128, 128, dtype=dtype), torch.ones(32, 32, 3, 3, dtype=dtype)
        runs = []
        for _ in range(4):
            start = time.perf_counter()
            functional.conv2d(x, weight, padding=1)
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs[1:])
    return seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]


@functools.cache
def keep_freed_memory() -> None:
    """Let this process reuse large blocks instead of returning them to the system after each layer (glibc only).

    Page faults cost a third of a pass otherwise. The process holds on to its peak memory, so a host such as napari
    does not call this; the shell and training do.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: nothing to set
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 2**31 - 1)


def release_freed_memory() -> None:
    """Give what is freed but kept back to the system (glibc only): after a job, and before memory is measured."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing is kept
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory_bytes() -> int:
    """Most memory that this process has had resident so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage on Linux begins with the memory of the program that started this one
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
