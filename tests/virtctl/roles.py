"""The roles that the commands are tried with: every preset, every add-on, the pairs that matter, and other shapes of a role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.virtctl.commands import COMMANDS, Command
from tests.virtctl.promises import AddOns, shipped
from vmaccess.policy.catalogue import ADD_ONS, PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaccess.model.spec import Preset


def named(preset: Preset, *include: str) -> str:
    """What a role is called here: `Operate + Screenshot`."""
    return " + ".join((preset, *include))


def with_preset(preset: Preset, *include: str) -> dict[str, Any]:
    """The `role` of a spec."""
    return {"preset": preset} | ({"include": list(include)} if include else {})


PAIRS: tuple[tuple[Preset, AddOns], ...] = (
    ("View", ("Screenshot", "VNC")),
    ("Operate", ("Screenshot",)),
    ("Operate", ("PortForward",)),
    ("Edit", ("StorageView",)),
    ("Admin", ("Migrate",)),
    ("Admin", tuple(ADD_ONS)),
)
"""Add-ons that mean something together, or on top of another preset than View."""

SHAPES: Mapping[str, dict[str, Any]] = {
    "Operate, one ClusterRole that is shared": {"kind": "ClusterRole", "preset": "Operate"},
    "View + VNC + Screenshot, a ClusterRole of its own": {"kind": "ClusterRole", "include": ["VNC", "Screenshot"]},
    "Operate without the screen": {"preset": "Operate", "drop": [{"resources": ["virtualmachineinstances/vnc"]}]},
    "Admin that makes and changes nothing": {
        "preset": "Admin",
        "drop": [{"apiGroups": ["kubevirt.io"], "verbs": ["create", "update", "patch", "delete", "deletecollection"]}],
    },
    "keep: look, start and stop": {
        "keep": [
            {"resources": ["virtualmachines", "virtualmachineinstances"], "verbs": ["get", "list", "watch"]},
            {"resources": ["virtualmachines/start", "virtualmachines/stop"], "verbs": ["update"]},
        ]
    },
}
"""Roles that are more than names."""

ROLES: Mapping[str, dict[str, Any]] = {
    **{named(preset): with_preset(preset) for preset in PRESETS},
    **{named("View", add_on): with_preset("View", add_on) for add_on in ADD_ONS},
    **{named(preset, *include): with_preset(preset, *include) for preset, include in PAIRS},
    **SHAPES,
}
"""Each of these is tried with every command."""


def _promised() -> dict[str, tuple[dict[str, Any], tuple[Command, ...]]]:
    found: dict[str, tuple[dict[str, Any], tuple[Command, ...]]] = {}
    for preset in PRESETS:
        for command in COMMANDS:
            for include in shipped().ways(command, preset):
                name = named(preset, *include)
                role, commands = found.get(name, (with_preset(preset, *include), ()))
                found[name] = role, (*commands, command)
    return {name: promised for name, promised in found.items() if name not in ROLES}


PROMISED = _promised()
"""What docs/roles.md promises besides: each preset with just the add-ons that it names, and the commands that then work."""
