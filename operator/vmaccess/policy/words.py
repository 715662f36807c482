"""Rights in words, for conditions and Events."""

from __future__ import annotations

from vmaccess.policy.kubevirt import KUBEVIRT, SUBRESOURCES
from vmaccess.policy.rules import Rules, uncovered

MOST = 40  # rights that one message names


def difference(before: Rules, after: Rules) -> str:
    """What is new and what is gone, such as `+virtualmachineinstances/reset update; -virtualmachines/migrate update`."""
    gained, lost = uncovered(before, after), uncovered(after, before)
    words = [f"-{right}" for right in rights(lost)] + [f"+{right}" for right in rights(gained)]
    return "; ".join(words[:MOST]) + (f"; and {len(words) - MOST} more" if len(words) > MOST else "")


def rights(rules: Rules) -> list[str]:
    """One entry for each resource: its name, its group where that is none of KubeVirt's main ones, names, and verbs."""
    return [
        f"{resource}{_group(group)}{_names(rule.resource_names)} {', '.join(rule.verbs)}"
        for rule in rules
        for group in rule.api_groups
        for resource in rule.resources
    ]


def _group(group: str) -> str:
    return "" if group in (KUBEVIRT, SUBRESOURCES) else f" ({group or 'core'})"


def _names(names: tuple[str, ...]) -> str:
    return f" [{', '.join(names)}]" if names else ""
