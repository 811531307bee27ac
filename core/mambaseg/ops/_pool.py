"""A few threads that share out the tasks of a kernel; the thread that calls works too.

numba's own parallel loops are not used: one of its threading layers ends the process when two Python threads enter, and
another breaks DataLoader workers after a fork.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

__all__ = ["share_out"]

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_n_helpers = 0


def share_out(work: Callable[[int, int], None], n_tasks: int, n_chunks: int) -> None:
    """Call ``work(first, last)`` on ranges that together cover `n_tasks`, in as many threads as torch uses.

    Parameters
    ----------
    work : must release the GIL to gain anything; ranges are disjoint, their order and thread are open
    n_chunks : ranges to make at most; 1 runs everything in the calling thread
    """
    n_chunks = min(n_chunks, n_tasks)
    n_threads = min(torch.get_num_threads(), n_chunks)
    if n_threads < 2:
        work(0, n_tasks)
        return
    numbers = itertools.count()

    def take_chunks() -> None:
        while (i := next(numbers)) < n_chunks:
            work(i * n_tasks // n_chunks, (i + 1) * n_tasks // n_chunks)

    helpers = _submit(take_chunks, n_threads - 1)
    try:
        take_chunks()
    finally:
        # A helper that has not begun (its thread is busy with another caller's work) has nothing left to do; one
        # that has must end before the arrays are given back, also when this thread failed.
        began = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in began]
    for error in errors:
        if error is not None:
            raise error


def _submit(work: Callable[[], None], n_helpers: int) -> list[Future[None]]:
    """Start `work` in `n_helpers` threads of the pool, which grows when torch's thread count has grown."""
    global _executor, _n_helpers
    with _lock:
        if _executor is None or _n_helpers < n_helpers:
            if _executor is not None:
                _executor.shutdown(wait=False)
            _executor = ThreadPoolExecutor(n_helpers, thread_name_prefix="mambaseg-scan")
            _n_helpers = n_helpers
        return [_executor.submit(work) for _ in range(n_helpers)]


def _forget_threads() -> None:
    """After a fork the child has the pool object but none of its threads, and perhaps a lock that nobody holds."""
    global _lock, _executor
    _lock = threading.Lock()
    _executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
