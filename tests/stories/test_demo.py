"""`make demo` is a promise: it ends well when everything held, and never when something did not."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import Any

import pytest

from localcluster import Cluster, product
from localcluster.existing import KUBECONFIG_VARIABLE
from tests.stories.conftest import EXAMPLES

DEMO = EXAMPLES / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The demo as a module, so that an expectation of it can be spoilt."""
    spec = importlib.util.spec_from_file_location("vmaccess_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PATIENCE", 4)
    return module


def test_the_story_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KUBECONFIG_VARIABLE, raising=False)
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\d+)\. ", done.stdout, re.MULTILINE) == list("1234567")
    assert done.stdout.count("[ok]") > 20
    assert "\033" not in done.stdout, "no colours into a pipe"
    assert "eyJ" not in done.stdout, "no token is shown"
    assert done.stdout.splitlines()[-1].startswith("All ")


def test_an_expectation_that_does_not_hold_ends_it(demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(demo, "GRANTED", {"list virtual machines": ("default", "myvms", "othervms")})
    assert demo.main() == 1
    last = capsys.readouterr().out.partition("FAILED: ")[2]
    assert "expected: {'list virtual machines': ('default', 'myvms', 'othervms')}" in last
    assert "found:    {'list virtual machines': ('default', 'myvms')}" in last


def test_without_the_operator_it_fails(demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Stopped(product.Operator):
        def __init__(self, cluster: Cluster) -> None:
            super().__init__(cluster)
            self.stop()

    monkeypatch.setattr(product, "Operator", Stopped)
    assert demo.main() == 1
    last = capsys.readouterr().out.partition("FAILED: ")[2]
    assert "kubectl wait --for=condition=Ready" in last
    assert "timed out" in last
