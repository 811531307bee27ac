"""Compile the CPU kernels before the first scan needs them, in a thread of its own, and say so when it takes long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from mambaseg.ops import scan_2d_numba, scan_numba

__all__ = ["warm_up_kernels"]

_log = logging.getLogger(__name__)

_PAUSE_S = 0.5  # a look at whether something compiles


def warm_up_kernels(background: bool, on_message: Callable[[str], None] | None, training: bool) -> Callable[[], None]:
    """See `mambaseg.ops.warm_up`."""
    say = on_message or _log.info
    errors: list[BaseException] = []
    is_done = threading.Event()
    n_before = _n_compiled()

    def announce() -> None:
        """Only what compiles is said: on a busy machine loading what was compiled may take its time, too."""
        while not is_done.wait(_PAUSE_S):
            if _n_compiled() > n_before:
                say("Compiling the selective scan for this processor; this happens once and takes some seconds.")
                is_done.wait()
                if not errors:
                    say("The selective scan is ready.")
                return

    def compile_all() -> None:
        announcer = threading.Thread(target=announce, name="mambaseg-warm-up-announcer", daemon=True)
        announcer.start()
        try:
            _compile(training)
        except Exception as error:  # noqa: BLE001 - kept and raised again in the thread that waits
            errors.append(error)
        finally:
            is_done.set()
            announcer.join()

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


def _n_compiled() -> int:
    """How many kernels were not in numba's cache, in this process so far."""
    kernels = [kernel for module in (scan_numba, scan_2d_numba)
               for kernel in (module._forward_kernel, module._backward_kernel)]
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels)


def _compile(training: bool) -> None:
    """Run the smallest scans, which compile the kernels or load them from numba's cache.

    The scan of sequences comes first, whole: who needs only that need not wait for the other.
    """
    u = torch.zeros(1, 1, 1, requires_grad=training)
    A, B, row = torch.zeros(4, 1, 4), torch.zeros(1, 1, 4, 1), torch.zeros(4, 1)
    with torch.set_grad_enabled(training):
        out, _ = scan_numba.numba_scan(u, u, A[0], B, B)
        if training:
            out.sum().backward()
        out = scan_2d_numba.numba_cross_scan(u[None], torch.zeros(4, 9, 1), torch.zeros(4, 1, 1), A, row, row)
        if training:
            out.sum().backward()
