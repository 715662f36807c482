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
