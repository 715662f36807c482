"""Nested subresources: kube-apiserver reads `evacuate`, virt-api reads `evacuate/cancel`, and whoever has one of them is refused.

KubeVirt's own roles have the long spelling alone, and an access review for that says yes where the real request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.virtctl.commands import COMMANDS, VMI, Command, Right
from tests.virtctl.places import Caller, Place
from vmaccess.policy.kubevirt import SUBRESOURCES

BY_NAME = {command.name: command for command in COMMANDS}
EVACUATION = [BY_NAME[f"virtctl evacuate-cancel {kind}"] for kind in ("vm", "vmi")]
SCREENSHOT = BY_NAME["virtctl vnc screenshot"]
ATTESTATION = [command for command in COMMANDS if "/sev/" in command.name]
CREDENTIALS = "the server has asked for the client to provide credentials"


def long_spelling(command: Command) -> Right:
    """What virt-api asks for, and KubeVirt's roles have."""
    (right,) = (right for need in command.needs for right in need if right.resource.count("/") == 2)
    return right


@pytest.fixture(scope="module")
def admin(furnished: Callable[[], Place]) -> Caller:
    """Somebody who is bound to kubevirt.io:admin by hand."""
    return furnished().bound_to("kubevirt.io:admin", "admin")


@pytest.fixture(scope="module")
def granted(furnished: Callable[[], Place]) -> Caller:
    """Somebody with a grant for just these subresources, beside View."""
    return furnished().granted({"include": ["Attestation", "EvacuateCancel"]})


def test_there_are_six_of_them() -> None:
    assert len(EVACUATION + ATTESTATION) == 6


@pytest.mark.parametrize("command", [*EVACUATION, *ATTESTATION], ids=lambda command: command.name)
def test_the_add_on_passes_both_and_kubevirts_own_admin_does_not(command: Command, admin: Caller, granted: Caller) -> None:
    assert granted.run(command).verdict == "works"
    refused = admin.run(command)
    assert refused.verdict == "refused"
    assert [refusal.partition(" ")[0] for refusal in refused.refusals] == ["403"]
    assert admin.can(long_spelling(command)), "an access review for the long spelling says yes all the same"


@pytest.mark.parametrize("command", [*EVACUATION, *ATTESTATION], ids=lambda command: command.name)
def test_the_short_spelling_alone_is_not_enough_for_virt_api(command: Command, furnished: Callable[[], Place]) -> None:
    wanted = long_spelling(command)
    short = Right(wanted.verb, wanted.group, wanted.resource.rpartition("/")[0])
    refused = furnished().with_rights("short", [short]).run(command)
    assert [refusal.partition(" ")[0] for refusal in refused.refusals] == ["401"]


def test_virt_apis_refusal_looks_like_a_bad_credential(furnished: Callable[[], Place]) -> None:
    """kubevirt.io:edit opens the screen and not the screenshot: past kube-apiserver, and a 401 without a text from virt-api."""
    editor = furnished().bound_to("kubevirt.io:edit", "editor")
    assert editor.run(BY_NAME["virtctl vnc"]).verdict == "works"
    refused = editor.run(SCREENSHOT)
    assert [refusal.partition(" ")[0] for refusal in refused.refusals] == ["401"]
    assert CREDENTIALS in refused.output
    whoami = Command("whoami", "kubectl auth whoami", (), f"Username +{editor.who.user}")
    assert editor.run(whoami).verdict == "works", "the token is as good as ever"


def test_can_i_lists_such_rights_and_cannot_be_asked_about_them(granted: Caller) -> None:
    """Discovery has the subresources without their resource: kubectl then asks about something else, and says no."""
    right = "virtualmachineinstances.subresources.kubevirt.io"
    listed = Command("list", "kubectl auth can-i --list -n {ns}", (), rf"{right}/sev/setupsession +\[\].*\[update\]")
    assert granted.run(listed).verdict == "works"
    for resource in (right, "virtualmachineinstances"):
        asked = Command("ask", f"kubectl auth can-i update {resource} --subresource=sev/setupsession -n {{ns}}", ())
        assert re.search("^no$", granted.run(asked).output, re.MULTILINE), resource


def test_a_screenshot_without_the_screen_is_not_given(furnished: Callable[[], Place]) -> None:
    caller = furnished().granted({"include": ["Screenshot"]})
    for name in ("vnc", "vnc/screenshot"):
        assert not caller.can(Right("get", SUBRESOURCES, f"{VMI}/{name}"))
    assert [refusal.partition(" ")[0] for refusal in caller.run(SCREENSHOT).refusals] == ["403"]
