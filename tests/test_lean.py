"""What the process of the operator imports."""

from __future__ import annotations

import subprocess
import sys

PROBE = "import sys, vmaccess.__main__; print(*sys.modules)"


def test_the_operator_is_without_the_blocking_client() -> None:
    """It takes 7 MB, in every cluster and for nothing; whoever sorts the imports anew must not bring it back."""
    imported = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True).stdout.split()
    assert "kubernetes.aio.client" in imported
    assert not {"kubernetes.config", "requests", "oauthlib", "websocket"} & {*imported}


def test_what_is_large_is_given_back() -> None:
    """A buffer of 100 kB is the system's again when it is freed, also after larger ones have been: malloc's own limit would rise."""
    probe = (
        "import ctypes, sys; from vmaccess import lean; lean.settle(); "
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]); "
        "bytearray(b'x' * 5_000_000); "
        "buffers, kept = [], []; before = resident(); "
        "[(buffers.append(bytearray(b'x' * 100_000)), kept.append(bytearray(b'x' * 1_000))) for _ in range(500)]; "
        "most = resident(); buffers.clear(); print(before, most, resident())"
    )
    before, most, after = map(int, subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True).stdout.split())
    assert most - before > 10_000, "pages of 4 kB"
    assert after - before < (most - before) / 10
