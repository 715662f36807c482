"""A grant for named machines: what works for these, what is refused for all others, and how a list is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.virtctl.commands import Command
from tests.virtctl.objects import machine
from tests.virtctl.places import Caller, Place

NO_INSTANCE = r"virtualmachineinstance\.kubevirt\.io \\*\"db-2\\*\" not found"
NO_AGENT = "VMI does not have guest agent connected"


@pytest.fixture(scope="module")
def operator_of_db_2(furnished: Callable[[], Place]) -> Caller:
    return furnished().granted({"preset": "Operate", "virtualMachines": ["db-2"]})


@pytest.fixture(scope="module")
def editor_of_db_3(furnished: Callable[[], Place]) -> Caller:
    return furnished().granted({"preset": "Edit", "include": ["Screenshot", "StorageView"], "virtualMachines": ["db-3"]})


@pytest.mark.parametrize(
    ("line", "verdict", "admitted"),
    [
        ("kubectl get vm db-2", "works", ""),
        ("kubectl get vm db-1", "refused", ""),
        ("kubectl get vm", "refused", ""),
        ("kubectl get vm --field-selector metadata.name=db-2", "works", r"^NAME.*\ndb-2 +\S+[^\n]*\n$"),
        ("kubectl get vm --field-selector metadata.name=db-1", "refused", ""),
        ("kubectl get vm db-2 --watch --request-timeout=3s", "works", ""),
        ("kubectl get vmi lone", "refused", ""),
        ("virtctl start db-1", "refused", ""),
        ("virtctl start db-2", "works", "was scheduled to start"),
        ("virtctl console db-1 --timeout=1", "refused", ""),
        ("virtctl console db-2 --timeout=1", "works", NO_INSTANCE),
        ("virtctl vnc db-2 --proxy-only", "works", NO_INSTANCE),
        ("virtctl guestosinfo db-1", "refused", ""),
        ("virtctl expand --vm db-2", "works", ""),
        ("virtctl expand --file {files}/machine.json", "refused", ""),
        ("virtctl pause vm db-1", "refused", ""),
        ("virtctl pause vm db-2", "works", "not found"),
        ("kubectl get vmsnapshots", "refused", ""),
        ("kubectl delete vm db-2", "refused", ""),
    ],
)
def test_operate(line: str, verdict: str, admitted: str, operator_of_db_2: Caller) -> None:
    assert operator_of_db_2.run(Command(line, line, (), admitted)).verdict == verdict


@pytest.mark.parametrize(
    ("line", "verdict", "admitted"),
    [
        ("kubectl apply -f {files}/db-3.json", "works", "virtualmachine.kubevirt.io/db-3"),
        ("kubectl label vm db-3 c=d", "works", ""),
        ("kubectl label vm db-2 c=d", "refused", ""),
        ("kubectl create -f {files}/machine.json", "refused", ""),
        ("virtctl vnc screenshot db-3 -f {files}/screen.png", "works", "not found"),
        ("virtctl vnc screenshot db-2 -f {files}/screen.png", "refused", ""),
        ("virtctl port-forward vm/db-3 --stdio 22", "works", "VMI is not started"),
        ("virtctl port-forward vm/db-2 --stdio 22", "refused", ""),
        ("kubectl get pvc disk", "refused", ""),
        ("virtctl removevolume db-3 --volume-name=disk", "works", "does not exist|VM is not running|Successfully submitted"),
        ("virtctl addvolume db-3 --volume-name=disk", "refused", ""),
        ("kubectl delete vm db-1", "refused", ""),
    ],
)
def test_edit(line: str, verdict: str, admitted: str, editor_of_db_3: Caller) -> None:
    assert editor_of_db_3.run(Command(line, line, (), admitted)).verdict == verdict


def test_a_named_machine_may_be_deleted(furnished: Callable[[], Place]) -> None:
    caller = furnished().granted({"preset": "Edit", "virtualMachines": ["db-3"]})
    assert caller.run(Command("delete", "kubectl delete vm db-3", ())).verdict == "works"


def test_the_grant_names_what_is_left_out(editor_of_db_3: Caller) -> None:
    place = editor_of_db_3.place
    condition = place.stage.condition(place.grant, "NotRestrictableByName")
    assert condition is not None
    for left_out in ("create on virtualmachines", "expand-vm-spec", "persistentvolumeclaims", "virtualmachinesnapshots"):
        assert left_out in condition["message"]


def test_a_machine_may_come_later(furnished: Callable[[], Place]) -> None:
    caller = furnished().granted({"preset": "Operate", "virtualMachines": ["later"]})
    start = Command("start", "virtctl start later", (), "was scheduled to start")
    assert "not found" in caller.run(start).output
    caller.place.create(machine("later"))
    assert caller.run(start).verdict == "works"
