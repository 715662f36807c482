"""The end of asyncio's tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def give_up(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancel the tasks and wait until they have ended: whatever they use is there until then.

    Returns what each has ended by: its result, or its exception, which is a CancelledError where the end has come too early.
    """
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    return await asyncio.gather(*ending, return_exceptions=True)
