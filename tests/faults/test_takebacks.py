"""A credential that is to end does so, whatever stands in the way of others and whatever somebody has had us forget."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.access.test_kubeconfigs import account, allow, grant_of, lists_machines, secret, secrets
from tests.faults import test_times
from tests.faults.faulty import Request, Send, running
from tests.faults.test_crash import until
from tests.faults.test_kubeconfigs import named, one, token, until_dead
from tests.faults.test_tampering import SERVER, bare, granted, note, path, rotate
from tests.faults.test_times import Steps, shown
from tests.stage import RBAC, Json, Stage
from vmaccess import delivery
from vmaccess.cluster.api import ApiError
from vmaccess.controller import Controller
from vmaccess.keys import Key, Part
from vmaccess.model.spec import MIN_LIFETIME
from vmaccess.policy.credentials import EXPIRES
from vmaccess.policy.delivery import OVERLAP, SLACK
from vmaccess.policy.kept import parse_token, slots
from vmaccess.policy.rights import kubeconfig_rights
from vmaccess.policy.times import in_words
from vmaccess.policy.wish import Names, kubeconfigs_of

__all__ = ["named"]  # a fixture

SLOT = "one-kubeconfig-token-a"
SOMEBODY = [{"kind": "User", "name": "ann"}]


def noted_by(stage: Stage, home: str) -> str:
    """What the ServiceAccount remembers."""
    metadata = stage.request("GET", f"/api/v1/namespaces/{home}/serviceaccounts/one")["metadata"]
    text: str = metadata.get("annotations", {}).get("vmaccess.dev/kubeconfigs", "")
    return text


def turn_of(stage: Stage, home: str, slot: str) -> str:
    """The rotation that a Secret's tokens are of; empty where it is gone."""
    found = secret(stage, home, slot)
    text: str = found["metadata"]["annotations"]["vmaccess.dev/rotate"] if found is not None else ""
    return text


async def gone(stage: Stage, home: str, *names: str) -> None:
    """Wait until Secrets are gone, by which their tokens die."""
    await until(lambda: not {*names} & {*secrets(stage, home)}, f"the Secrets {names} to go")


@pytest.mark.parametrize("noted", [None, "one-kubeconfig," + "x" * 5000], ids=["nothing", "more than is read"])
async def test_what_an_account_was_made_to_forget_is_taken_back(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], noted: str | None
) -> None:
    """By a process that has not made it: after a restart nothing but the ServiceAccount and the spec tells of it."""
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
    note(stage, home, "one", noted)
    async with running(kubeconfig):
        await until(lambda: noted_by(stage, home) == "one-kubeconfig", "the name to be noted again")
        stage.respec(name, bare(home))
        await gone(stage, home, "one-kubeconfig", SLOT)
        await until_dead(stage, first, home)


async def test_a_label_that_is_put_back_takes_no_memory_with_it(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home) = bare_stage, named
    where = f"/api/v1/namespaces/{home}/serviceaccounts/one"
    async with running(kubeconfig):
        await granted(stage, name, home)
    async with running(kubeconfig):
        await shown(stage, name, "Granted")
        stage.request("PATCH", where, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
        await until(lambda: "app.kubernetes.io/managed-by" in stage.request("GET", where)["metadata"]["labels"], "the label")
        assert noted_by(stage, home) == "one-kubeconfig"


@pytest.mark.parametrize("restarted", [False, True], ids=["the process that made it", "another"])
async def test_a_suspended_grant_leaves_nothing_that_the_account_was_made_to_forget(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], *, restarted: bool
) -> None:
    stage, (name, home) = bare_stage, named
    async with AsyncExitStack() as process:
        await process.enter_async_context(running(kubeconfig))
        await granted(stage, name, home)
        if restarted:
            await process.aclose()
        note(stage, home, "one", None)
        stage.respec(name, grant_of(home, one(home), suspend=True))
        if restarted:
            await process.enter_async_context(running(kubeconfig))
        await gone(stage, home, "one-kubeconfig", SLOT)
        await shown(stage, name, "Suspended")


@pytest.mark.parametrize("heir", ["somebody else's", "without a server"])
async def test_a_name_that_changes_hands_takes_no_token_with_it(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], heir: str
) -> None:
    """The one who gets the name may get no kubeconfig: what was of the one before goes all the same."""
    stage, (name, home) = bare_stage, named
    if heir == "somebody else's":
        stage.request("POST", f"/api/v1/namespaces/{home}/serviceaccounts", {"metadata": {"name": "two"}})
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        more: Json = {"server": SERVER} if heir == "somebody else's" else {}
        stage.respec(name, grant_of(home, {"name": "one", "namespace": home}, account("two", home, "one-kubeconfig", **more)))
        await gone(stage, home, "one-kubeconfig", SLOT)
        await until_dead(stage, first, home)


@pytest.mark.parametrize("change", ["another rotation", "no kubeconfig"])
async def test_what_changes_while_it_is_looked_at_is_not_taken_for_done(kubeconfig: Path, bare_stage: Stage, change: str) -> None:
    """The grant waits for the room that the look takes, and is planned when the look has come to its end."""
    stage, home, other = bare_stage, bare_stage.namespace(), bare_stage.namespace()
    name, held, hold, let_go = stage.unique("one"), 0, False, asyncio.Event()
    for namespace, who in ((home, "one"), (other, "two")):
        allow(stage, name, namespace, {who: f"{who}-kubeconfig"})

    async def plan(request: Request, send: Send) -> Json:
        nonlocal held
        if hold and request.method == "GET" and request.path.endswith("-kubeconfig"):
            held += 1
            await let_go.wait()
        return await send()

    stage.grant(grant_of(home, one(home), account("two", other, server=SERVER)), "one")
    async with running(kubeconfig, plan, max_in_flight=1) as (controller, _):
        await shown(stage, name, "Granted")
        await token(stage, home)
        hold = True
        rotate(stage, name, "once")
        await until(lambda: held == 2, "both to be looked at, with all the room that there is")
        if change == "another rotation":
            rotate(stage, name, "twice")
        else:
            stage.respec(name, grant_of(home, {"name": "one", "namespace": home}, {"name": "two", "namespace": other}))
        version = int(stage.get(name)["metadata"]["resourceVersion"])
        await until(lambda: (seen := controller.world.grant(name)) is not None and seen.version >= version, "the change")
        let_go.set()
        if change == "another rotation":
            wanted = hashlib.sha256(b"twice").hexdigest()[:16]
            await until(lambda: {turn_of(stage, home, slot) for slot in slots("one-kubeconfig")} == {"", wanted}, "another")
        else:
            await gone(stage, home, "one-kubeconfig", *slots("one-kubeconfig"))


async def test_who_fails_leaves_alone_what_another_has_now(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]) -> None:
    stage, (name, home) = bare_stage, named
    stage.request("POST", path(home, "")[:-1], {"metadata": {"name": "taken"}})
    for each in kubeconfig_rights(f"{name}-more", home, [("one", "taken"), ("two", "one-kubeconfig")]):
        stage.request("POST", f"{RBAC}/namespaces/{home}/{each['kind'].lower()}s", each)
    async with running(kubeconfig) as (controller, _):
        first = await granted(stage, name, home)
        both = (account("one", home, "taken", server=SERVER), account("two", home, "one-kubeconfig", server=SERVER))
        stage.respec(name, grant_of(home, *both))
        await shown(stage, name, "NameConflict", ready="False")
        second = await token(stage, home, other_than=first)
        key = Key(Part.KUBECONFIG, name, home, "one")
        failures = controller.queue.failures(key)
        await until(lambda: controller.queue.failures(key) > failures + 2, "the other to be tried again")
        await asyncio.sleep(11)  # for which the API server would remember a dead one
        assert lists_machines(stage, second, home) == 200


async def test_a_removal_on_its_way_leaves_alone_what_another_makes_meanwhile(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home), hold, held, let_go = bare_stage, named, False, asyncio.Event(), asyncio.Event()
    for each in kubeconfig_rights(f"{name}-more", home, [("two", "one-kubeconfig")]):
        stage.request("POST", f"{RBAC}/namespaces/{home}/{each['kind'].lower()}s", each)

    async def plan(request: Request, send: Send) -> Json:
        if hold and request.method == "DELETE" and request.path.endswith(SLOT) and not held.is_set():
            held.set()
            answer = await send()
            await let_go.wait()
            return answer
        return await send()

    async with running(kubeconfig, plan):
        first = await granted(stage, name, home)
        hold, bare_one = True, {"name": "one", "namespace": home}
        stage.respec(name, bare(home))
        await held.wait()
        stage.respec(name, grant_of(home, bare_one, account("two", home, "one-kubeconfig", server=SERVER)))
        second = await token(stage, home, other_than=first)
        let_go.set()
        await shown(stage, name, "Granted")
        await asyncio.sleep(11)
        assert lists_machines(stage, second, home) == 200
        assert len(secrets(stage, home)) == 2


async def test_a_leaked_token_ends_while_its_grant_is_on_hold(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig):
        first = await granted(stage, name, home)
        elsewhere = account("one", home, "another-name", server=SERVER)
        stage.respec(name, grant_of(home, elsewhere, role={"from": stage.unique("nobody")}))
        await shown(stage, name, "BaseRoleNotFound", ready="False")
        rotate(stage, name, "leaked")
        await gone(stage, home, SLOT)
        await until_dead(stage, first, home)


@pytest.mark.parametrize(
    "way", ["a name that is taken", "a mark that is stripped", "a quota", "a new name", "no server", "a webhook"]
)
async def test_a_rotation_ends_the_token_whatever_is_in_the_way_of_another(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], way: str
) -> None:
    stage, (name, home), full, closed = bare_stage, named, False, False

    async def plan(request: Request, send: Send) -> Json:
        if full and request.method == "POST" and request.path.endswith("/secrets"):
            raise ApiError(403, "Forbidden", 'secrets "x" is forbidden: exceeded quota: q, requested: secrets=1, limited: 2')
        if closed and request.method == "PATCH" and request.path.endswith("/serviceaccounts/one"):
            raise ApiError(403, "Forbidden", "admission webhook x denied the request")
        return await send()

    async with running(kubeconfig, plan) as (controller, _):
        first = await granted(stage, name, home)
        match way:
            case "a name that is taken":
                stage.request("POST", path(home, "")[:-1], {"metadata": {"name": "one-kubeconfig-token-b"}})
            case "a mark that is stripped":
                stage.request("PATCH", path(home, SLOT), {"metadata": {"labels": {"vmaccess.dev/grant-uid": None}}})
            case "a quota":
                full = True
            case "a new name":
                stage.request("POST", path(home, "")[:-1], {"metadata": {"name": "taken"}})
                stage.respec(name, grant_of(home, account("one", home, "taken", server=SERVER)))
            case "a webhook":
                closed = True
                note(stage, home, "one", None)
                await until(lambda: not noted_in(controller, home), "the name to be forgotten")
            case "no server":
                controller._delivery._offer = delivery.Offer(None, None)
                stage.respec(name, grant_of(home, account("one", home, "one-kubeconfig")))
        rotate(stage, name, "leaked")
        await gone_or_new(stage, home, first)
        if way in ("a quota", "a webhook"):
            await shown(stage, name, "APIError", ready="False")
            failures = stage.get(name)["status"]["failures"]
            assert [each["reason"] for each in failures] == ["APIError"]
            assert ("exceeded quota" if way == "a quota" else "webhook x denied") in failures[0]["message"]
        await until_dead(stage, first, home)


def noted_in(controller: Controller, home: str) -> Names:
    """What the operator sees that the ServiceAccount remembers."""
    found = controller.world.account(home, "one")
    return kubeconfigs_of(found) if found is not None else ()


async def gone_or_new(stage: Stage, home: str, old: str) -> None:
    """Wait until the Secret that a token is bound to is gone, or another has come in its place."""
    bound = parse_token(old)
    assert bound is not None

    def is_gone() -> bool:
        status, answer = stage.cluster.request("GET", path(home, SLOT))
        return status == 404 or answer["metadata"]["uid"] != bound.secret_uid

    await until(is_gone, "the Secret of the old token to go")


async def test_a_token_that_would_outlive_a_sooner_end_goes_soon_after_the_next(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home), steps = bare_stage, named, Steps()

    def spec(hours: float) -> Json:
        end = in_words(datetime.fromtimestamp(time.time() + 3600 * hours, UTC))
        return grant_of(home, one(home, tokenLifetimeSeconds=86400), expirationTime=end)

    stage.respec(name, spec(20))
    async with test_times.running(kubeconfig, steps):
        await shown(stage, name, "Granted")
        first = await token(stage, home)
        sooner = spec(1)
        stage.respec(name, sooner)
        await token(stage, home, other_than=first)
        assert lists_machines(stage, first, home) == 200, "whoever has read the old one has time to read the new one"
    steps.servers = OVERLAP + 5
    async with test_times.running(kubeconfig, steps):
        await gone(stage, home, SLOT)
    ends = [each["metadata"]["annotations"].get(EXPIRES, "") for each in stage.request("GET", path(home, "")[:-1])["items"]]
    assert max(ends) <= sooner["expirationTime"]


async def test_a_token_is_renewed_by_the_process_that_made_it(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    """In its last moment at which another can be had, some seconds after it was made."""
    stage, (name, home) = bare_stage, named
    end = datetime.fromtimestamp(time.time() + MIN_LIFETIME + SLACK + 12, UTC)
    stage.respec(name, grant_of(home, one(home, tokenLifetimeSeconds=MIN_LIFETIME), expirationTime=in_words(end)))
    async with running(kubeconfig):
        await shown(stage, name, "Granted")
        first = await token(stage, home)
        await asyncio.sleep(13)
        second = parse_token(await token(stage, home, other_than=first))
    assert second is not None
    assert abs(second.expires - end.timestamp()) <= SLACK + 1


async def test_one_failed_look_on_hold_does_not_lose_a_rotation(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home), failing = bare_stage, named, False

    async def plan(request: Request, send: Send) -> Json:
        nonlocal failing
        if failing and request.method == "GET" and request.path.endswith(SLOT):
            failing = False
            raise ApiError(500, "InternalError", "etcd is slow")
        return await send()

    async with running(kubeconfig, plan):
        await granted(stage, name, home)
        elsewhere = account("one", home, "another-name", server=SERVER)
        stage.respec(name, grant_of(home, elsewhere, role={"from": stage.unique("nobody")}))
        await shown(stage, name, "BaseRoleNotFound", ready="False")
        await asyncio.sleep(1)
        failing = True
        rotate(stage, name, "leaked")
        await gone(stage, home, SLOT)
        assert not failing


async def test_a_finalizer_that_is_put_back_holds_no_token_alive(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home) = bare_stage, named
    held = {"metadata": {"finalizers": ["example.com/x"]}}

    async def plan(request: Request, send: Send) -> Json:
        answer = await send()
        if request.method == "PATCH" and request.path.endswith(SLOT):
            stage.request("PATCH", path(home, SLOT), held, expect=None)
        return answer

    async with running(kubeconfig, plan):
        await granted(stage, name, home)
        stage.request("PATCH", path(home, SLOT), held)
        rotate(stage, name, "leaked")
        await gone(stage, home, SLOT)


async def test_a_look_that_outlives_its_grant_leaves_nothing_behind(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home), hold, held, let_go = bare_stage, named, False, asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if hold and request.method == "GET" and request.path.endswith("one-kubeconfig"):
            answer = await send()
            held.set()
            await let_go.wait()
            return answer
        return await send()

    async with running(kubeconfig, plan) as (controller, _):
        await granted(stage, name, home)
        hold = True
        controller.queue.add(Key(Part.KUBECONFIG, name, home, "one"))
        await held.wait()
        stage.delete(name)
        await until(lambda: controller.world.grant(name) is None, "the grant to go")
        let_go.set()
        await controller.queue.idle()
        assert not controller._delivery.accounts(name)


async def test_an_entry_that_leaves_while_its_token_is_on_its_way_leaves_no_secret(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, home = bare_stage, bare_stage.namespace()
    name = stage.unique("one")
    allow(stage, name, home, {"one": "one-kubeconfig"})
    reached, let_go = asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if request.method == "GET" and request.path.endswith("-token-b") and not reached.is_set():
            reached.set()
            await let_go.wait()
        return await send()

    stage.grant(grant_of(home, one(home), subjects=SOMEBODY), "one")
    async with running(kubeconfig, plan):
        await reached.wait()
        stage.respec(name, {"subjects": SOMEBODY, "namespaces": [home]})
        await until(lambda: stage.child("serviceaccounts", home, "one") is None, "the ServiceAccount to go")
        let_go.set()
        await shown(stage, name, "Granted")
        await asyncio.sleep(3)
        assert secrets(stage, home) == []


async def test_secrets_that_could_not_be_deleted_are_when_they_can(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    """Their ServiceAccount has gone by then, and with it their tokens: it is not kept waiting for ever."""
    stage, (name, home), broken = bare_stage, named, False

    async def plan(request: Request, send: Send) -> Json:
        if broken and request.method == "DELETE" and "/secrets/" in request.path:
            raise ApiError(500, "InternalError", "etcd is slow")
        return await send()

    async with running(kubeconfig, plan):
        stage.respec(name, grant_of(home, one(home), subjects=SOMEBODY))
        await shown(stage, name, "Granted")
        broken = True
        stage.respec(name, {"subjects": SOMEBODY, "namespaces": [home]})
        await until(lambda: stage.child("serviceaccounts", home, "one") is None, "the ServiceAccount to go")
        await shown(stage, name, "RevocationFailed", ready="False")
        broken = False
        await gone(stage, home, "one-kubeconfig", SLOT)
        await shown(stage, name, "Granted")


async def test_a_binding_that_hangs_keeps_no_token_alive(kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]) -> None:
    stage, (name, home), hanging, let_go = bare_stage, named, False, asyncio.Event()
    other = stage.namespace()

    async def plan(request: Request, send: Send) -> Json:
        if hanging and request.is_write and f"/namespaces/{other}/rolebindings" in request.path:
            await let_go.wait()
        return await send()

    async with running(kubeconfig, plan):
        spec = {**grant_of(home, one(home)), "namespaces": [home, other]}
        stage.respec(name, spec)
        await shown(stage, name, "Granted")
        hanging = True
        stage.respec(name, {**spec, "suspend": True})
        await gone(stage, home, "one-kubeconfig", SLOT)
        assert not let_go.is_set()
        let_go.set()
        await shown(stage, name, "Suspended")


async def test_what_was_refused_is_tried_again_by_itself(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], tmp_path: Path
) -> None:
    stage, (name, home) = bare_stage, named
    async with running(kubeconfig) as (controller, _):
        controller._delivery._offer = delivery.Offer(None, str(tmp_path / "ca.crt"))
        stage.respec(name, grant_of(home, one(home)))
        await shown(stage, name, "ServerUnknown", ready="False")
        (tmp_path / "ca.crt").write_bytes(b"PEM")
        await shown(stage, name, "Granted")


async def test_an_end_that_has_just_passed_gives_nothing(kubeconfig: Path, bare_stage: Stage) -> None:
    """The clock of a process that has just started may be late by most of a second."""
    stage, role = bare_stage, {"kind": "ClusterRole", "preset": "View"}
    first = stage.grant({"subjects": SOMEBODY, "namespaces": [stage.namespace()], "role": role})
    async with running(kubeconfig):
        await shown(stage, first, "Granted")  # its ClusterRole is there now: a binding is the first write of any other
    for _ in range(3):
        namespace = stage.namespace()
        await _until_second(0.9)
        async with running(kubeconfig):
            await _until_second(0.05)
            spec: dict[str, Any] = {"subjects": SOMEBODY, "namespaces": [namespace], "role": role}
            since = stage.mark()
            name = stage.grant({**spec, "expirationTime": in_words(datetime.fromtimestamp(int(time.time()), UTC))})
            await shown(stage, name, "Expired")
            assert not [write for write in stage.writes(since) if "rolebindings" in write]


async def _until_second(part: float) -> None:
    """Wait for this part of a second to have passed."""
    await asyncio.sleep((part - time.time()) % 1)
