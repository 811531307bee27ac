"""Compile the CPU kernels before the first scan needs them, in a thread of its own, and say so when it takes long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from mambaseg.ops.scan_2d_numba import numba_cross_scan
from mambaseg.ops.scan_numba import numba_scan

__all__ = ["warm_up_kernels"]

_log = logging.getLogger(__name__)


def warm_up_kernels(background: bool, on_message: Callable[[str], None] | None, training: bool) -> Callable[[], None]:
    """See `mambaseg.ops.warm_up`."""
    say = on_message or _log.info
    errors: list[BaseException] = []
    announced = threading.Event()

    def announce() -> None:
        announced.set()
        say("Compiling the selective scan for this processor; this happens once and takes some seconds.")

    def compile_all() -> None:
        slow = threading.Timer(1.0, announce)
        slow.daemon = True
        slow.start()
        try:
            _compile(training)
        except Exception as error:  # noqa: BLE001 - kept and raised again in the thread that waits
            errors.append(error)
        finally:
            slow.cancel()
        if announced.is_set() and not errors:
            say("The selective scan is ready.")

    def wait() -> None:
        thread.join()
        if errors:
            raise errors[0]

    # no daemon: torch aborts a process that ends while one of its kernels runs in another thread
    thread = threading.Thread(target=compile_all, name="mambaseg-warm-up")
    thread.start()
    if not background:
        wait()
    return wait


def _compile(training: bool) -> None:
    """Run the smallest scans, which compile the kernels or load them from numba's cache.

    The scan of sequences comes first, whole: who needs only that need not wait for the other.
    """
    u = torch.zeros(1, 1, 1, requires_grad=training)
    A, B, row = torch.zeros(4, 1, 4), torch.zeros(1, 1, 4, 1), torch.zeros(4, 1)
    with torch.set_grad_enabled(training):
        out, _ = numba_scan(u, u, A[0], B, B)
        if training:
            out.sum().backward()
        out = numba_cross_scan(u[None], torch.zeros(4, 9, 1), torch.zeros(4, 1, 1), A, row, row)
        if training:
            out.sum().backward()
