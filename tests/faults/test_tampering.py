"""Whoever may edit Secrets or ServiceAccounts of a namespace saves no token by it, and what fails on the way is not forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.access.helpers import LIST_VMS, base_role, remove_base_role
from tests.access.test_kubeconfigs import account, allow, grant_of, kubeconfig_in, lists_machines, secret, secrets, token_of
from tests.faults import test_times
from tests.faults.faulty import Request, Send, running
from tests.faults.test_crash import is_ready, until
from tests.faults.test_kubeconfigs import named, one, token, until_dead
from tests.faults.test_times import HOUR_LONG, Steps, shown
from tests.stage import GRANTS, RBAC, Json, Stage
from vmaccess import delivery
from vmaccess.cluster.api import ApiError
from vmaccess.keys import Key, Part

__all__ = ["named"]  # a fixture

SERVER = "https://api.example.com:6443"


def path(home: str, name: str) -> str:
    """Of a Secret."""
    return f"/api/v1/namespaces/{home}/secrets/{name}"


def note(stage: Stage, home: str, name: str, value: str | None) -> None:
    """Write what a ServiceAccount is to remember."""
    notes = {"annotations": {"vmaccess.dev/kubeconfigs": value}}
    stage.request("PATCH", f"/api/v1/namespaces/{home}/serviceaccounts/{name}", {"metadata": notes})


def rotate(stage: Stage, name: str, why: str) -> None:
    """Ask for other tokens."""
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"annotations": {"vmaccess.dev/rotate": why}}})


def bare(home: str) -> Json:
    """The grant without the kubeconfig; the ServiceAccount stays."""
    return grant_of(home, {"name": "one", "namespace": home})


async def granted(stage: Stage, name: str, home: str) -> str:
    """Have the kubeconfig made; its token."""
    stage.respec(name, grant_of(home, one(home)))
    await shown(stage, name, "Granted")
    return await token(stage, home)


async def test_a_finalizer_holds_no_token_alive(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        stage.request("PATCH", path(home, "one-kubeconfig-token-a"), {"metadata": {"finalizers": ["example.com/x"]}})
        rotate(stage, name, "leaked")
        second = await token(stage, home, other_than=first)
        stage.respec(name, bare(home))
        await shown(stage, name, "Granted")
        assert secrets(stage, home) == []
        await until_dead(stage, second, home)


async def test_a_kubeconfig_that_cannot_be_changed_is_replaced(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        stage.request("PATCH", path(home, "one-kubeconfig"), {"immutable": True})
        rotate(stage, name, "leaked")
        await token(stage, home, other_than=first)
        await until_dead(stage, first, home)


async def test_a_name_that_somebody_wrote_into_the_account_saves_no_other(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        note(stage, home, "one", "aaa,one-kubeconfig")
        stage.respec(name, bare(home))
        await until(lambda: secrets(stage, home) == [], "the Secrets to go")
        await shown(stage, name, "RevocationFailed", ready="False")  # of the name that may not be read
        await until_dead(stage, first, home)


@pytest.mark.parametrize("stripped", ["labels", "ownerReferences"])
async def test_a_stripped_mark_saves_no_token(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], stripped: str) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        stage.request("PATCH", path(home, "one-kubeconfig-token-a"), {"metadata": {stripped: None}})
        stage.respec(name, bare(home))
        await shown(stage, name, "Granted")
        assert secrets(stage, home) == []
        await until_dead(stage, first, home)


async def test_names_may_change_hands(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, home, name = bare_stage, bare_stage.namespace(), bare_stage.unique("hands")
    allow(stage, name, home, {"one": "x", "two": "y"})

    def spec(one_has: str, two_has: str) -> Json:
        return grant_of(home, account("one", home, one_has, server=SERVER), account("two", home, two_has, server=SERVER))

    def is_right(secret_name: str, of: str) -> bool:
        stored = secret(stage, home, secret_name)
        text = kubeconfig_in(stored) if stored is not None else ""
        return f"name: {home}/{of}" in text and lists_machines(stage, token_of(text), home) == 200

    stage.grant(spec("x", "y"), "hands")
    async with running(kubeconfig):
        await shown(stage, name, "Granted")
        old = token_of(kubeconfig_in(secret(stage, home, "x") or {}))
        stage.respec(name, spec("y", "x"))
        await until(
            lambda: is_right("x", "two") and is_right("y", "one") and is_ready(stage, name), "the names to have changed hands"
        )
        await until_dead(stage, old, home)
        note(stage, home, "one", "x,y")  # by this somebody would have the other's removed
        await asyncio.sleep(1)
        assert is_right("x", "two")


async def test_after_a_hold_it_is_looked_at_again(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOOKED_AT", 0.5)
    stage, (name, home) = bare_stage, named
    base = base_role(stage, LIST_VMS)
    stage.respec(name, grant_of(home, one(home), role={"from": base, "keep": [LIST_VMS]}))
    try:
        async with running(kubeconfig):
            await shown(stage, name, "Granted")
            remove_base_role(stage, base)
            await shown(stage, name, "BaseRoleNotFound", ready="False")
            await asyncio.sleep(1)
            stage.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": base}, "rules": [LIST_VMS]})
            await shown(stage, name, "Granted")
            stage.request("DELETE", path(home, "one-kubeconfig"))
            await until(lambda: secret(stage, home, "one-kubeconfig"), "the kubeconfig to be made again")
    finally:
        remove_base_role(stage, base)


async def test_without_its_base_role_a_grant_keeps_its_kubeconfig_and_gets_no_other(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    """Nothing existing is removed then: a token that is not renewed in time would be."""
    stage, (name, home), steps = bare_stage, named, Steps()
    base = base_role(stage, LIST_VMS)
    role = {"from": base, "keep": [LIST_VMS]}
    stage.respec(name, grant_of(home, one(home, tokenLifetimeSeconds=1000), role=role))
    try:
        async with test_times.running(kubeconfig, steps):
            await shown(stage, name, "Granted")
            first = await token(stage, home)
            remove_base_role(stage, base)
            await shown(stage, name, "BaseRoleNotFound", ready="False")
            other = account("other", home, server=SERVER)
            stage.respec(name, grant_of(home, one(home, tokenLifetimeSeconds=1000), other, role=role))
            await shown(stage, name, "BaseRoleNotFound", ready="False")
        steps.servers = 810.0
        async with test_times.running(kubeconfig, steps):
            await token(stage, home, other_than=first)
        assert stage.child("serviceaccounts", home, "other") is None
    finally:
        remove_base_role(stage, base)


async def test_a_kubeconfig_whose_turn_comes_just_as_the_grant_changes_gets_another(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timer is used up, and all is as it was when it was last looked at: it must be looked at all the same."""
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig) as (controller, _):
        first = await granted(stage, name, home)
        key = Key(Part.KUBECONFIG, name, home, "one")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(controller, "_is_about", lambda *_: False)  # as between a change and the look at the grant
            controller.queue.add(key)
            await until(lambda: len(controller.queue) == 0, "its turn")
        stage.request("DELETE", path(home, "one-kubeconfig-token-a"))
        controller.wake(name)
        await token(stage, home, other_than=first)


async def test_a_clock_that_is_put_back_makes_no_token_old(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]) -> None:
    stage, (name, home), steps = bare_stage, named, Steps()
    steps.servers = HOUR_LONG
    async with test_times.running(kubeconfig, steps) as (_, api):
        first = await granted(stage, name, home)
        steps.servers = 0.0
        await api.ask_time()
        rotate(stage, name, "once")
        second = await token(stage, home, other_than=first)
        await asyncio.sleep(3)
        assert token_of(kubeconfig_in(secret(stage, home, "one-kubeconfig") or {})) == second


async def test_without_the_ca_access_is_taken_away_all_the_same(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], tmp_path: Path
) -> None:
    stage, (name, home) = bare_stage, named
    other = stage.namespace()
    spec = {**grant_of(home, one(home)), "namespaces": [home, other]}
    stage.respec(name, spec)
    async with running(kubeconfig) as (controller, _):
        await shown(stage, name, "Granted")
        controller._delivery._offer = delivery.Offer(None, str(tmp_path / "gone"))
        stage.respec(name, {**spec, "excludeNamespaces": [other]})
        await until(lambda: stage.child("rolebindings", other, f"vmaccess:{name}") is None, "the binding to go")
        await shown(stage, name, "ServerUnknown", ready="False")


async def test_one_failure_does_not_leave_secrets_behind(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]) -> None:
    stage, (name, home) = bare_stage, named
    left = 1

    async def plan(request: Request, send: Send) -> Json:
        nonlocal left
        if request.method == "DELETE" and "/secrets/" in request.path and left:
            left -= 1
            raise ApiError(500, "InternalError", "etcd is slow")
        return await send()

    two = {"name": "two", "namespace": home}
    async with running(kubeconfig, plan):
        stage.respec(name, grant_of(home, one(home), two))
        await shown(stage, name, "Granted")
        stage.respec(name, grant_of(home, two))
        await until(lambda: stage.child("serviceaccounts", home, "one") is None, "the ServiceAccount to go")
        assert secrets(stage, home) == []
        assert not left


async def test_what_was_never_allowed_can_be_withdrawn(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, home = bare_stage, bare_stage.namespace()
    name = stage.grant(grant_of(home, one(home)))
    async with running(kubeconfig):
        await shown(stage, name, "KubeconfigForbidden", ready="False")
        stage.respec(name, bare(home))
        await shown(stage, name, "Granted")


async def test_what_has_ended_in_part_does_not_come_back(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    good, bad = stage.namespace(), stage.namespace()
    spec = {**test_times.spec(good, expirationTime=test_times.rfc(test_times.HOUR / 2)), "namespaces": [good, bad]}
    name = stage.grant(spec)

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and f"/namespaces/{bad}/rolebindings" in request.path and request.method != "POST":
            raise ApiError(500, "InternalError", "etcd is slow")
        return await send()

    async with test_times.running(kubeconfig, steps, plan):
        await shown(stage, name, "Granted")
    steps.servers = HOUR_LONG
    async with test_times.running(kubeconfig, steps, plan):
        await shown(stage, name, "RevocationFailed", ready="False")
        assert not await test_times.views(stage, good)
    steps.servers = 0.0
    async with test_times.running(kubeconfig, steps):
        await shown(stage, name, "Expired")
        for namespace in (good, bad):
            assert not await test_times.views(stage, namespace)
