"""What the tests of pure code share: the shipped roles of KubeVirt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vmaccess.policy.rules import Rules, parse

ROLES = Path(__file__).parents[2] / "deploy" / "local" / "kubevirt" / "roles.yaml"


@pytest.fixture(scope="session")
def roles() -> dict[str, Rules]:
    """The rules of every ClusterRole that KubeVirt ships, by name."""
    documents = [document for document in yaml.safe_load_all(ROLES.read_text()) if document]
    return {role["metadata"]["name"]: parse(role["rules"]) for role in documents if role["kind"] == "ClusterRole"}


@pytest.fixture(scope="session")
def admin(roles: dict[str, Rules]) -> Rules:
    """The default base role."""
    return roles["kubevirt.io:admin"]
