"""Keeps the process small. Imported before anything else: what has been imported does not get smaller any more."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from typing import Any

GARBAGE = 25_000  # objects made between two looks for cycles; at the default of 700, reading long lists is mostly such looks


# glibc's malloc asks the system anew for what is larger than this, and gives it back when it is freed. If it is not set, it rises
# with what is freed, and the buffers of TLS connections and of lists leave holes between what stays.
LARGE = 64 * 1024  # bytes
M_MMAP_THRESHOLD = -3  # malloc.h


def settle() -> None:
    """Have what has been imported count as never to be collected, look for cycles seldom, and give back what is large."""
    gc.freeze()
    gc.set_threshold(GARBAGE)
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)


def _leave_out_the_blocking_client() -> None:
    """Have `kubernetes` be the home of `kubernetes.aio` alone.

    Importing the package brings its blocking half as well, with requests and oauthlib: 230 modules and 7 MB, which nothing here
    uses. kopf looks for two of its classes and does without where there are none.
    """
    modules: dict[str, Any] = sys.modules
    if "kubernetes" in modules or (package := importlib.util.find_spec("kubernetes")) is None:
        return
    modules["kubernetes"] = importlib.util.module_from_spec(package)
    modules["kubernetes.client"] = None  # to import it is an ImportError


_leave_out_the_blocking_client()
