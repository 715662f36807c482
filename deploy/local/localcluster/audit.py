"""What the API server was asked, by whom: the audit log lets a test prove that something was not written."""

import json
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
omitManagedFields: true
rules:
  - level: None
    users: ["system:kube-controller-manager", "system:apiserver"]
    verbs: [get, list, watch]
  - level: None
    nonResourceURLs: ["/readyz*", "/livez*", "/healthz*"]
  - level: Metadata
"""


def audit_flags(log: Path, policy: Path) -> list[str]:
    """Write the policy and return kube-apiserver's flags for it.

    Blocking mode: the line is written before the answer is complete, so that who has the answer finds the line.
    """
    policy.write_text(POLICY)
    return [
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=100000",  # megabytes; a rotated log would lose its beginning and the callers' positions
    ]


LONGEST_LINE = 1 << 16


def end(log: Path) -> int:
    """Return the position after the last whole line: others write meanwhile, and not a line at a time."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        start = file.seek(max(0, size - LONGEST_LINE))
        return start + file.read(size - start).rfind(b"\n") + 1


def read_events(log: Path, since: int) -> list[dict[str, Any]]:
    """Return the events after a position in bytes; a line that is still being written is left for the next time."""
    with log.open("rb") as file:
        file.seek(since)
        return [json.loads(line) for line in whole_lines(file)]


def whole_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    """Return the lines up to the first that is not whole: what a file gives after that one may be the rest of it."""
    return takewhile(lambda line: line.endswith(b"\n"), file)
