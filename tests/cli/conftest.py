"""The command as a person runs it, in this process, so that a test may look at all it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from localcluster import Cluster
from vmaccess.cli.__main__ import main


@dataclass(frozen=True)
class Said:
    """What a run of the command came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `kubectl vmaccess` with the admin's kubeconfig, unless another is named."""

    def run(*arguments: str) -> Said:
        named = () if "--kubeconfig" in arguments else ("--kubeconfig", str(cluster.admin_kubeconfig))
        capsys.readouterr()
        try:
            main([*arguments, *named])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Said(code, *capsys.readouterr())

    return run
