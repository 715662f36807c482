"""Keeps the process small. Imported before anything else: what has been imported does not get smaller any more."""

from __future__ import annotations

import gc
import importlib.util
import sys
from typing import Any

GARBAGE = 25_000  # objects made between two looks for cycles; at the default of 700, reading long lists is mostly such looks


def settle() -> None:
    """Have what has been imported count as never to be collected, and look for cycles seldom."""
    gc.freeze()
    gc.set_threshold(GARBAGE)


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
