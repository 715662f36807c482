"""Kubeconfigs survive the death of the process between any two requests, renew in time, and leave nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.access.test_kubeconfigs import account, allow, grant_of, kubeconfig_in, lists_machines, secret, secrets, token_of
from tests.faults import test_times
from tests.faults.faulty import FaultyApi, crash_at, running
from tests.faults.test_crash import is_ready, until
from tests.faults.test_times import Steps, shown
from tests.stage import GRANTS, Json, Stage
from vmaccess import delivery
from vmaccess.policy.kept import TOKEN, parse_token, slots

NEVER_AGAIN = 25


def one(home: str, **more: Any) -> Json:
    """The ServiceAccount, with a kubeconfig that nobody will use."""
    return account("one", home, server="https://api.example.com:6443", **more)


async def until_dead(stage: Stage, token: str, namespace: str) -> None:
    """Wait until the API server does not know the token any more."""
    await asyncio.to_thread(
        stage.until, lambda: lists_machines(stage, token, namespace) == 401, "the token to be dead", NEVER_AGAIN
    )


async def token(stage: Stage, home: str, *, other_than: str = "") -> str:
    """The token in the kubeconfig, which works."""
    name = "one-kubeconfig"

    def another() -> str | None:
        stored = secret(stage, home, name)
        found = token_of(kubeconfig_in(stored)) if stored is not None else other_than
        return found if found != other_than else None

    found: str = await asyncio.to_thread(stage.until, another, "a token")
    assert lists_machines(stage, found, home) == 200
    return found


@pytest.fixture
def named(bare_stage: Stage) -> tuple[str, str]:
    """A grant with a kubeconfig where it is allowed; its name and its namespace."""
    home = bare_stage.namespace()
    name = bare_stage.unique("one")
    allow(bare_stage, name, home, {"one": "one-kubeconfig"})
    bare_stage.grant(grant_of(home, one(home, tokenLifetimeSeconds=1000), suspend=True), "one")
    return name, home


async def test_a_token_is_renewed_at_four_fifths_and_the_old_one_works_until_its_end(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str]
) -> None:
    stage, (name, home), steps = bare_stage, named, Steps()
    stage.respec(name, grant_of(home, one(home, tokenLifetimeSeconds=1000)))
    async with test_times.running(kubeconfig, steps):
        await shown(stage, name, "Granted")
        first = await token(stage, home)
    steps.servers = 780.0
    async with test_times.running(kubeconfig, steps):
        await shown(stage, name, "Granted")
        await asyncio.sleep(1)
        assert await token(stage, home) == first
    steps.servers = 810.0
    async with test_times.running(kubeconfig, steps):
        await token(stage, home, other_than=first)
        assert lists_machines(stage, first, home) == 200, "whoever has read the old one has time to read the new one"
        assert secrets(stage, home) == ["one-kubeconfig", "one-kubeconfig-token-a", "one-kubeconfig-token-b"]
    steps.servers = 1010.0
    async with test_times.running(kubeconfig, steps):
        await until_dead(stage, first, home)
        await token(stage, home)


def is_settled(stage: Stage, name: str, home: str) -> bool:
    """Whether the Secrets are those that the grant asks for, and no others: the kubeconfig, and what its token is bound to."""
    grant = stage.get(name)
    if not is_ready(stage, name):
        return False
    if grant["spec"]["suspend"]:
        return secrets(stage, home) == []
    stored = secret(stage, home, "one-kubeconfig")
    bound = [found for slot in slots("one-kubeconfig") if (found := secret(stage, home, slot)) is not None]
    if stored is None or len(bound) != 1 or len(secrets(stage, home)) != 2:
        return False
    in_use = parse_token(token_of(kubeconfig_in(stored)))
    turn, found = (each["metadata"].get("annotations", {}).get("vmaccess.dev/rotate", "") for each in (grant, bound[0]))
    wanted = hashlib.sha256(turn.encode()).hexdigest()[:16] if turn else ""
    return in_use is not None and in_use.secret_uid == bound[0]["metadata"]["uid"] and wanted == found


async def settle(kubeconfig: Path, stage: Stage, name: str, home: str) -> int:
    """Run the controller until nothing is left to do; returns the writes that it took."""
    async with running(kubeconfig) as (_, api):
        await until(lambda: is_settled(stage, name, home), "the kubeconfig to be as it should be")
        return api.writes


@pytest.mark.parametrize("over", ["issue", "rotation", "removal"])
async def test_a_death_anywhere_leaves_no_token_behind(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], over: str
) -> None:
    """Before and after every write there is: the next process comes to the same end, and nothing is out that nobody knows of."""
    stage, (name, home) = bare_stage, named
    turns = itertools.count()

    def respec(*, suspend: bool) -> None:
        stage.respec(name, grant_of(home, one(home), suspend=suspend))

    def forth() -> None:
        if over == "rotation":
            notes = {"annotations": {"vmaccess.dev/rotate": f"turn {next(turns)}"}}
            stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": notes})
        else:
            respec(suspend=over == "removal")

    async def back() -> str:
        respec(suspend=over == "issue")
        await settle(kubeconfig, stage, name, home)
        return await token(stage, home) if over != "issue" else ""

    await back()
    forth()
    writes = await settle(kubeconfig, stage, name, home)
    assert writes > 2
    for number in range(1, writes + 1):
        for answered in (False, True):
            before = await back()
            forth()
            async with running(kubeconfig, crash_at(number, answered=answered)) as (_, api):
                # The last write, of the status, is not needed where the old and the new token end in the same second.
                await until(partial(_is_over, stage, name, home, api), "the crash")
            await settle(kubeconfig, stage, name, home)
            if over != "removal":
                assert await token(stage, home) != before
    if before:
        await until_dead(stage, before, home)


def _is_over(stage: Stage, name: str, home: str, api: FaultyApi) -> bool:
    return api.crashed.is_set() or is_settled(stage, name, home)


async def test_what_is_tampered_with_is_put_right(
    kubeconfig: Path, bare_stage: Stage, named: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells of a change to a Secret that may not be watched; it is seen when its time comes."""
    monkeypatch.setattr(delivery, "LOOKED_AT", 0.5)
    stage, (name, home) = bare_stage, named
    stage.respec(name, grant_of(home, one(home)))
    path = f"/api/v1/namespaces/{home}/secrets"
    async with running(kubeconfig) as _:
        await shown(stage, name, "Granted")
        first = await token(stage, home)
        stage.request("DELETE", f"{path}/one-kubeconfig-token-a")
        second = await token(stage, home, other_than=first)
        stage.request("DELETE", f"{path}/one-kubeconfig")
        third = await token(stage, home, other_than=second)
        await until_dead(stage, second, home)
        whole = kubeconfig_in(secret(stage, home, "one-kubeconfig") or {})
        for text in (
            "nothing",
            whole.replace("server: https://", "server: https://evil.example.com/"),
            whole.replace(third, first),
        ):
            stage.request("PATCH", f"{path}/one-kubeconfig", {"stringData": {"kubeconfig": text}})
            await until(lambda: "one-kubeconfig" in secrets(stage, home), "the Secret")
            await until(lambda: _is_right(stage, home, whole), "the kubeconfig to be right")
    assert len(secrets(stage, home)) in (2, 3)


def _is_right(stage: Stage, home: str, whole: str) -> bool:
    text = kubeconfig_in(secret(stage, home, "one-kubeconfig") or {})
    found = TOKEN.search(text)
    return found is not None and TOKEN.sub("", text) == TOKEN.sub("", whole) and lists_machines(stage, found[1], home) == 200
