"""What a role promises, worked out from data alone: which commands work with a preset, and which add-ons a command takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml

from localcluster import kubevirt
from localcluster.api import documents
from vmaccess.model.spec import AddOn, Preset, Role
from vmaccess.policy.catalogue import ADD_ONS
from vmaccess.policy.kubevirt import DEFAULT_BASE
from vmaccess.policy.role import Trimmed, trim
from vmaccess.policy.rules import Rules, parse

if TYPE_CHECKING:
    from tests.virtctl.commands import Command, Need

AddOns: TypeAlias = tuple[AddOn, ...]

_BASES: Final = Path(__file__).parents[1] / "policy" / "bases"
CONFIG_READER: Final[list[dict[str, Any]]] = yaml.safe_load((_BASES / "cdi.yaml").read_text())["cdi.kubevirt.io:config-reader"]
"""What CDI lets everybody read of its configuration."""


class Promises:
    """Over one base role, beside what everybody has in the whole cluster."""

    def __init__(self, base: Rules, everyone: Rules) -> None:
        self.base, self.everyone = base, everyone
        self._trimmed: dict[tuple[Preset, AddOns], Trimmed] = {}

    def trimmed(self, preset: Preset, include: AddOns = ()) -> Trimmed:
        """The role of a preset with add-ons."""
        if (preset, include) not in self._trimmed:
            role = {"preset": preset} | ({"include": include} if include else {})
            self._trimmed[preset, include] = trim(self.base, Role.model_validate(role))
        return self._trimmed[preset, include]

    def missing(self, command: Command, preset: Preset, include: AddOns = ()) -> tuple[Need, ...]:
        """What a command needs and does not have, in the order in which it needs it."""
        return tuple(command.missing(self.trimmed(preset, include).rules, self.everyone))

    def works(self, command: Command, preset: Preset, include: AddOns = ()) -> bool:
        """Whether a command works in whole."""
        return not self.missing(command, preset, include)

    def ways(self, command: Command, preset: Preset) -> tuple[AddOns, ...]:
        """The smallest sets of add-ons with which a command works: an empty one where it needs none, no set where none helps."""
        if not self.works(command, preset, tuple(ADD_ONS)):
            return ()
        lacking = [right for need in self.missing(command, preset) for right in need]
        helping = [name for name, it in ADD_ONS.items() if any(right.is_in((*it.keeps, *it.adds), ()) for right in lacking)]
        for size in range(len(helping) + 1):
            if found := tuple(names for names in combinations(helping, size) if self.works(command, preset, names)):
                return found
        raise AssertionError(f"{command.name} works with {preset} and an add-on that names none of its rights")

    def cell(self, command: Command, preset: Preset) -> str:
        """What docs/roles.md says of a command and a preset."""
        match self.ways(command, preset):
            case ():
                return "no"
            case ((),):
                return "yes"
            case several:
                return "with " + " or ".join(" and ".join(names) for names in several)


@cache
def shipped() -> Promises:
    """Over the role that KubeVirt ships, with what KubeVirt and CDI give to everybody."""
    objects = list(documents(kubevirt.ROLES.read_text()))
    roles = {item["metadata"]["name"]: parse(item["rules"]) for item in objects if item["kind"] == "ClusterRole"}
    everybodys = [
        item["roleRef"]["name"]
        for item in objects
        if item["kind"] == "ClusterRoleBinding" and {"system:authenticated"} == {who["name"] for who in item["subjects"]}
    ]
    return Promises(roles[DEFAULT_BASE], (*(rule for name in everybodys for rule in roles[name]), *parse(CONFIG_READER)))


@cache
def released() -> Mapping[str, Promises]:
    """The same over the role of each minor release since v1.0.0, the oldest first."""
    files = sorted(_BASES.glob("v1.*.0.yaml"))
    bases = {file.stem: parse(yaml.safe_load(file.read_text())[DEFAULT_BASE]) for file in files}
    return {version: Promises(base, shipped().everyone) for version, base in bases.items()}
