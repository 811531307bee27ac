"""One header of a NumPy file at a time: it is read by `ast`, which Python 3.11 lets fail where two threads use it.

The failure is a `SystemError`, "AST constructor recursion depth mismatch" (python/cpython issue 106905).
"""

import threading

__all__ = ["NPY_LOCK"]

NPY_LOCK = threading.Lock()
