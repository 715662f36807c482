"""One way to wait, so that every timeout names what was waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

from localcluster.errors import ClusterError

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], what: str, *, timeout: float = 30, interval: float = 0.05) -> T:
    """Return the first truthy answer of `probe`; after `timeout` seconds raise a ClusterError that names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        if answer := probe():
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)
