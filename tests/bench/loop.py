"""The event loop that the operator runs on: uvloop's where it is installed."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

try:
    _uvloop: Any = importlib.import_module("uvloop")
except ImportError:
    _uvloop = None

NAME = "uvloop" if _uvloop else "asyncio"


def runner() -> asyncio.Runner:
    """A runner on that loop."""
    return asyncio.Runner(loop_factory=_uvloop.new_event_loop if _uvloop else None)


def run(job: Coroutine[Any, Any, T]) -> T:
    """What asyncio.run does, on that loop."""
    with runner() as one:
        return one.run(job)
