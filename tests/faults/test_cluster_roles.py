"""A ClusterRole stands behind many bindings: whatever fails on the way to it, nobody holds more, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmaccess.ontheirway
from localcluster import Cluster
from tests.access.helpers import VMS, Watched, base_role, remove_base_role, set_base_role
from tests.faults.faulty import Request, Send, running
from tests.faults.test_crash import is_ready, until, user
from tests.faults.test_races import do
from tests.stage import GRANTS, OPERATOR, Json, Stage, Who
from vmaccess.cluster.api import ApiError
from vmaccess.cluster.executor import ESCALATION_MARKS

ANN, EVE, OLD, NEW = Who("ann"), Who("eve"), Who("old"), Who("new")
VIEW, EDIT = ({"kind": "ClusterRole", "preset": preset} for preset in ("View", "Edit"))


def rule(resource: str, *verbs: str) -> Json:
    """One entry of a spec's keep."""
    return {"resources": [resource], "verbs": list(verbs)}


def own(*verbs: str) -> Json:
    """A role that is a ClusterRole of the grant's own."""
    return {"kind": "ClusterRole", "keep": [rule("virtualmachines", *verbs)]}


NARROW, WIDE = own("get"), own("get", "list", "create")


def spec(*names: str, namespaces: list[str], role: Json, **fields: object) -> Json:
    """A spec for these users."""
    return {"subjects": [user(name) for name in names], "namespaces": namespaces, "role": role, **fields}


def wish(stage: Stage, name: str, of: Json) -> None:
    """Replace the whole spec of a grant whose status is just being written: without asking which version it is."""
    patch = json.dumps([{"op": "replace", "path": "/spec", "value": of}])
    stage.request("PATCH", f"{GRANTS}/{name}", patch, content_type="application/json-patch+json")


def makes(stage: Stage, who: Who, *namespaces: str) -> set[str]:
    """The namespaces in which somebody may make machines."""
    return {namespace for namespace in namespaces if stage.can(who, "create", VMS, namespace)}


def reason(stage: Stage, name: str, kind: str = "Ready") -> str:
    """The reason of a condition, empty where it is absent."""
    return str((stage.condition(name, kind) or {}).get("reason", ""))


def is_role_write(request: Request) -> bool:
    """Whether it makes or changes a ClusterRole."""
    return request.method in ("POST", "PATCH") and "/clusterroles" in request.path


# --- what is refused ---


@pytest.fixture
def odd(cluster: Cluster) -> Iterator[str]:
    """A base with a right that the operator does not hold."""
    with Stage(cluster) as stage:
        name = base_role(stage, {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}, name="odd")
        yield name
        remove_base_role(stage, name)


@pytest.mark.parametrize("kind", ["of its own", "of its own, worded anew each time", "shared, worded anew each time"])
async def test_what_is_refused_is_tried_ever_less_often(kubeconfig: Path, bare_stage: Stage, odd: str, kind: str) -> None:
    stage, namespace = bare_stage, bare_stage.namespace()
    really = kind == "of its own"
    odd_role = {"kind": "ClusterRole", "from": odd, "keep": [rule("deployments", "get")]}
    role = odd_role if really else VIEW if kind.startswith("shared") else NARROW
    refused, tries = asyncio.Event(), 0
    refused.set()

    async def plan(request: Request, send: Send) -> Json:
        nonlocal tries
        if is_role_write(request):
            tries += 1
            if refused.is_set() and not really:
                raise ApiError(403, "Forbidden", f"request {tries}: {ESCALATION_MARKS[0]}")
        return await send()

    async with running(kubeconfig, plan):
        other = await do(stage.grant, spec("eve", namespaces=[namespace], role={}))
        await until(lambda: is_ready(stage, other), "another grant to be ready")
        name = await do(stage.grant, spec("ann", namespaces=[namespace], role=role))
        await until(lambda: reason(stage, name, "Stalled") == "Escalation", "the refusal to be told")
        await asyncio.sleep(5)
        assert 2 <= tries <= 8
        await do(wish, stage, other, spec("eve", namespaces=[namespace], role={}, suspend=True))
        await until(lambda: not stage.views(EVE, namespace), "the other grant to be revoked")
        refused.clear()
        cured = NARROW if really else role
        await do(wish, stage, name, spec("ann", namespaces=[namespace], role=cured))
        await until(lambda: is_ready(stage, name), "ready")
        assert stage.can(ANN, "get", VMS, namespace)


EVENTS = {"include": ["EventView"]}
REFUSALS = [
    pytest.param(ApiError(400, "BadRequest", 'admission webhook "x" denied the request'), id="400, as a webhook denies"),
    pytest.param(ApiError(500, "InternalError", 'failed calling webhook "x": deadline exceeded'), id="500"),
    pytest.param(ApiError(0, "Timeout", "no answer"), id="no answer"),
]


@pytest.mark.parametrize("error", REFUSALS)
@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        pytest.param(EDIT, VIEW, "/clusterroles", id="one shared to another"),
        pytest.param(EDIT | EVENTS, VIEW | EVENTS, "/clusterroles", id="own"),
        pytest.param({"preset": "Edit"}, {"preset": "View"}, "/roles", id="Role"),
        pytest.param(EDIT, {"preset": "View"}, "/roles", id="shared to Role"),
    ],
)
async def test_a_narrowing_that_is_refused_happens_by_other_means(
    kubeconfig: Path, bare_stage: Stage, error: ApiError, old: Json, new: Json, where: str
) -> None:
    stage, namespaces = bare_stage, [bare_stage.namespace() for _ in range(2)]
    refusing = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if refusing.is_set() and request.method in ("POST", "PATCH") and where in request.path:
            await asyncio.sleep(0.05)
            raise error
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("ann", namespaces=namespaces, role=old))
        await until(lambda: is_ready(stage, name), "ready")
        assert makes(stage, ANN, *namespaces) == set(namespaces)
        refusing.set()
        since = time.monotonic()
        await do(wish, stage, name, spec("ann", namespaces=namespaces, role=new))
        told = set()

        def narrowed() -> bool:
            why = reason(stage, name)
            if not makes(stage, ANN, *namespaces):
                return True
            told.add(why)
            return False

        await until(narrowed, "what is not asked for any more to go")
        assert time.monotonic() - since < 15
        if error.status == 500:  # the others are not tried a second time
            assert "RevocationFailed" in told, f"while it stands: {told}"
        assert not is_ready(stage, name)
        refusing.clear()
        await until(lambda: is_ready(stage, name), "ready")
        assert all(stage.views(ANN, namespace) for namespace in namespaces)
        assert not makes(stage, ANN, *namespaces)


async def test_a_role_that_lies_about_is_no_reason_to_keep_a_wider_binding(kubeconfig: Path, bare_stage: Stage) -> None:
    """A Role from before cannot be given the rules that are wanted now: then the binding to the wider ClusterRole goes."""
    stage, namespace = bare_stage, bare_stage.namespace()
    kept, refusing = asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if "/roles/" in request.path and kept.is_set() and request.method == "DELETE":
            raise ApiError(503, "ServiceUnavailable", "try again")
        if "/roles" in request.path and refusing.is_set() and request.method in ("POST", "PATCH"):
            raise ApiError(403, "Forbidden", "no")
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("ann", namespaces=[namespace], role={"keep": [rule("virtualmachines", "list")]}))
        await until(lambda: is_ready(stage, name), "ready")
        kept.set()
        await do(wish, stage, name, spec("ann", namespaces=[namespace], role=EDIT))
        bound = ("rolebindings", namespace, f"vmaccess:{name}")
        await until(lambda: makes(stage, ANN, namespace) and not stage.child(*bound), "the binding to the ClusterRole alone")
        assert stage.child("roles", namespace, f"vmaccess:{name}") is not None
        refusing.set()
        wanted = spec("ann", namespaces=[namespace], role={"keep": [rule("virtualmachines", "get")]})
        await do(wish, stage, name, wanted)
        await until(lambda: not makes(stage, ANN, namespace), "what is not asked for any more to go")
        refusing.clear()
        kept.clear()
        await until(lambda: is_ready(stage, name), "ready")
        assert stage.can(ANN, "get", VMS, namespace)
        assert not stage.views(ANN, namespace)


# --- bindings that are not this grant's ---


async def test_bindings_of_an_earlier_grant_gain_nothing_by_the_new_one(kubeconfig: Path, bare_stage: Stage) -> None:
    """They point to the new grant's ClusterRole by name; one of them cannot be deleted, in a namespace the new one leaves out."""
    stage, one, two = bare_stage, bare_stage.namespace(), bare_stage.namespace()
    refusing = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if refusing.is_set() and request.method in ("DELETE", "PATCH") and f"/{two}/rolebindings/" in request.path:
            raise ApiError(403, "Forbidden", "no")
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("old", namespaces=[one, two], role=NARROW), "same")
        await until(lambda: is_ready(stage, name), "ready")
        refusing.set()
        stage.cluster.stop_controller_manager()
        try:
            with Watched(stage, never=[(OLD, "create", VMS, namespace) for namespace in (one, two)]):
                await do(stage.delete, name)
                await do(stage.grant, spec("new", namespaces=[one], role=WIDE), "same")
                await until(lambda: reason(stage, name) == "RevocationFailed", "the failure to be told")
                await asyncio.sleep(2)
                assert not is_ready(stage, name)
                refusing.clear()
                await until(lambda: is_ready(stage, name), "ready")
            assert makes(stage, NEW, one, two) == {one}
            assert not [place for place in (one, two) if stage.can(OLD, "get", VMS, place)]
        finally:
            stage.cluster.start_controller_manager()


# --- writes that come late ---


async def test_a_write_that_waited_for_an_answer_is_decided_on_again(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, namespaces = bare_stage, [bare_stage.namespace() for _ in range(2)]
    slow, held, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        answer = await send()
        if slow.is_set() and not held.is_set() and request.method == "GET" and "/vmaccessgrants/" in request.path:
            held.set()
            await go.wait()
        elif go.is_set() and request.method == "POST" and request.path.endswith("/rolebindings"):
            await asyncio.sleep(1)  # whoever it binds by mistake stays bound for as long
        return answer

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("old", namespaces=namespaces, role=NARROW))
        await until(lambda: is_ready(stage, name), "ready")
        slow.set()
        await do(stage.request, "DELETE", stage.path("rolebindings", namespaces[0], f"vmaccess:{name}:cluster"))
        await held.wait()
        with Watched(stage, never=[(OLD, "create", VMS, namespace) for namespace in namespaces]):
            await do(wish, stage, name, spec("new", namespaces=namespaces, role=WIDE))
            await asyncio.sleep(1)
            go.set()
            await until(lambda: is_ready(stage, name), "ready")
        assert makes(stage, NEW, *namespaces) == set(namespaces)


@pytest.mark.parametrize(
    ("stays", "error"),
    [
        pytest.param(True, ApiError(0, "Timeout", "no answer"), id="no answer, the namespace stays"),
        pytest.param(False, ApiError(500, "InternalError", "etcdserver: request timed out"), id="none of etcd's, it leaves"),
    ],
)
async def test_a_write_without_an_answer_may_still_happen(
    kubeconfig: Path,
    bare_stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    stays: bool,  # noqa: FBT001
    error: ApiError,
) -> None:
    stage, where, other = bare_stage, bare_stage.namespace(), bare_stage.namespace()
    monkeypatch.setattr(vmaccess.ontheirway, "UNANSWERED", 6.0)
    slow, lost, go, landed = (asyncio.Event() for _ in range(4))
    late: list[asyncio.Task[None]] = []

    async def plan(request: Request, send: Send) -> Json:
        if slow.is_set() and not lost.is_set() and request.method == "POST" and f"/{where}/rolebindings" in request.path:
            lost.set()

            async def land() -> None:
                await go.wait()
                await send()
                landed.set()

            late.append(asyncio.create_task(land()))
            raise error
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("old", namespaces=[where, other], role=NARROW))
        await until(lambda: is_ready(stage, name), "ready")
        slow.set()
        bound = stage.path("rolebindings", where, f"vmaccess:{name}:cluster")
        await do(stage.request, "DELETE", bound)
        await lost.wait()
        with Watched(stage, never=[(OLD, "create", VMS, namespace) for namespace in (where, other)]):
            wanted = [where, other] if stays else [other]
            await do(wish, stage, name, spec("new", namespaces=wanted, role=WIDE))
            await asyncio.sleep(1.5)
            await do(stage.request, "DELETE", bound, expect=None)  # a retry may have been faster
            assert not makes(stage, NEW, where, other), "it is not widened meanwhile"
            go.set()
            await late[0]
            assert landed.is_set()
            await until(lambda: not stage.can(OLD, "get", VMS, where), "what it did to be undone")
            await until(lambda: is_ready(stage, name), "ready")
        assert makes(stage, NEW, where, other) == set(wanted)


# --- what waits ---


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
async def test_who_leaves_does_not_wait_for_a_role_that_hangs(kubeconfig: Path, bare_stage: Stage, kind: str) -> None:
    """One change takes rights from all and everything from one: where the first hangs, the second happens all the same."""
    stage, hung, fine = bare_stage, bare_stage.namespace(), bare_stage.namespace()
    change = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        where = "/clusterroles/" if kind == "ClusterRole" else f"/{hung}/roles/"
        if change.is_set() and request.method == "PATCH" and where in request.path:
            await asyncio.Event().wait()
        return await send()

    def role(verbs: Json) -> Json:
        return {**verbs, "kind": kind}

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("ann", "bob", namespaces=[hung, fine], role=role(WIDE)))
        await until(lambda: is_ready(stage, name), "ready")
        change.set()
        await do(wish, stage, name, spec("ann", namespaces=[hung, fine], role=role(NARROW)))
        await until(lambda: not stage.can(Who("bob"), "get", VMS, fine), "bob to be out where nothing hangs")
        if kind == "ClusterRole":
            await until(lambda: not stage.can(Who("bob"), "get", VMS, hung), "and everywhere else")


async def test_what_gives_too_much_waits_for_no_other_namespace(kubeconfig: Path, bare_stage: Stage) -> None:
    """Where nothing can be removed from the binding to the grant's own ClusterRole, that may not become more. The wider shared
    role goes all the same where it is bound, and what the own one says so far is bound in its place.
    """
    stage, stuck, other = bare_stage, bare_stage.namespace(), bare_stage.namespace()
    change = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if change.is_set() and request.method in ("PATCH", "DELETE") and f"/{stuck}/rolebindings/" in request.path:
            raise ApiError(500, "InternalError", "failed calling webhook: connection refused")
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("ann", "old", namespaces=[stuck], role=NARROW))
        await until(lambda: is_ready(stage, name), "ready")
        change.set()
        await do(wish, stage, name, spec("ann", namespaces=[stuck, other], role={"kind": "ClusterRole", "preset": "Admin"}))
        await until(lambda: stage.can(ANN, "delete", VMS, other), "the shared role to be bound")
        await do(wish, stage, name, spec("ann", namespaces=[stuck, other], role=WIDE))
        await until(lambda: not stage.can(ANN, "delete", VMS, other), "what is too much to be gone")
        await until(lambda: stage.can(ANN, "get", VMS, other), "what there is to be bound")
        assert makes(stage, OLD, stuck, other) == set(), "who could not be removed has gained nothing"
        assert not is_ready(stage, name)
        change.clear()
        await until(lambda: is_ready(stage, name), "ready once that works again")
        assert makes(stage, ANN, stuck, other) == {stuck, other}


async def test_a_cluster_role_that_waits_for_a_write_goes_on_when_that_has_failed(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, namespaces = bare_stage, [bare_stage.namespace() for _ in range(2)]
    slow, held, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if slow.is_set() and not held.is_set() and request.method == "PATCH" and "/rolebindings/" in request.path:
            held.set()
            await go.wait()
            raise ApiError(500, "InternalError", "failed calling webhook: connection refused")
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, spec("ann", namespaces=namespaces, role=NARROW))
        await until(lambda: is_ready(stage, name), "ready")
        slow.set()
        await do(wish, stage, name, spec("ann", "new", namespaces=namespaces, role=NARROW))
        await held.wait()
        await do(wish, stage, name, spec("ann", "new", namespaces=namespaces, role=WIDE))
        await asyncio.sleep(1)
        go.set()
        await until(lambda: is_ready(stage, name), "ready")
        assert makes(stage, NEW, *namespaces) == set(namespaces)


async def test_a_cluster_role_that_waits_goes_on_when_nobody_is_to_leave_any_more(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, team = bare_stage, bare_stage.unique("team")
    namespaces = [stage.namespace(team=team) for _ in range(2)]
    refusing = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if refusing.is_set() and request.method == "DELETE" and "/rolebindings/" in request.path:
            raise ApiError(500, "InternalError", "no")
        return await send()

    selected = {"subjects": [user("ann")], "namespaceSelector": {"matchLabels": {"team": team}}}
    async with running(kubeconfig, plan):
        name = await do(stage.grant, {**selected, "role": NARROW})
        await until(lambda: is_ready(stage, name), "ready")
        refusing.set()
        await do(stage.relabel, namespaces[1], team="another")
        await until(lambda: reason(stage, name) == "RevocationFailed", "the failure to be told")
        await do(wish, stage, name, {**selected, "role": WIDE})
        await asyncio.sleep(1)
        assert not makes(stage, ANN, *namespaces)
        await do(stage.relabel, namespaces[1], team=team)
        await until(lambda: is_ready(stage, name), "ready")
        assert makes(stage, ANN, *namespaces) == set(namespaces)


# --- what is told of a base that changes ---

GET_VMS: Json = {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["get"]}
GET_WIDGETS: Json = {"apiGroups": ["x.example"], "resources": ["widgets"], "verbs": ["get"]}


@pytest.fixture
def mine(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """A base of one's own whose rights the operator was given; call it to give it other rules."""
    with Stage(cluster) as stage:
        rights = base_role(stage, GET_WIDGETS, name="rights")
        name = base_role(stage, GET_VMS, name="mine")
        cluster.kubectl("create", "clusterrolebinding", rights, f"--clusterrole={rights}", f"--user={OPERATOR}")

        def change(*rules: Json) -> str:
            set_base_role(stage, name, *rules)
            return name

        yield change
        cluster.kubectl("delete", "clusterrolebinding", rights)
        for each in (rights, name):
            remove_base_role(stage, each)


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
async def test_what_a_ceiling_takes_is_told(kubeconfig: Path, bare_stage: Stage, mine: Callable[..., str], kind: str) -> None:
    """The base lost a name that the spec keeps: the spec is invalid now, and what the base has lost is lost all the same."""
    stage, namespace = bare_stage, bare_stage.namespace()
    base = mine({**GET_VMS, "verbs": ["get", "list"]}, GET_WIDGETS)
    keep = [rule("virtualmachines", "get", "list"), rule("widgets", "get")]
    async with running(kubeconfig):
        name = await do(stage.grant, spec("ann", namespaces=[namespace], role={"kind": kind, "from": base, "keep": keep}))
        await until(lambda: is_ready(stage, name), "ready")
        before = stage.get(name)["status"]["role"]
        await do(mine, GET_VMS)
        await until(lambda: reason(stage, name, "Stalled") == "InvalidSpec" and not stage.views(ANN, namespace), "the ceiling")
        await until(lambda: stage.condition(name, "BaseRoleChanged") is not None, "it to be told")
        told = (stage.condition(name, "BaseRoleChanged") or {})["message"]
        assert "-virtualmachines list" in told
        assert "-widgets (x.example) get" in told
        assert "+" not in told
        assert stage.get(name)["status"]["role"]["hash"] != before["hash"]
        assert stage.can(ANN, "get", VMS, namespace)
        assert reason(stage, name, "Active") == "Granted"


async def test_names_that_come_and_go_with_the_base_are_told(
    kubeconfig: Path, bare_stage: Stage, mine: Callable[..., str]
) -> None:
    stage, namespace = bare_stage, bare_stage.namespace()
    named: Json = {**GET_VMS, "resourceNames": ["web-1"]}
    base = mine(named)

    def says(words: str, *, any_name: bool) -> bool:
        told = (stage.condition(name, "BaseRoleChanged") or {}).get("message", "")
        return told.endswith(words) and stage.can(ANN, "get", VMS, namespace, name="db") is any_name

    async with running(kubeconfig):
        role = {"kind": "ClusterRole", "from": base, "preset": "Admin"}
        name = await do(stage.grant, spec("ann", namespaces=[namespace], role=role))
        await until(lambda: is_ready(stage, name), "ready")
        await do(mine, GET_VMS)
        await until(lambda: says(": +virtualmachines get", any_name=True), "any name to be told")
        await do(mine, named)
        await until(lambda: says(": -virtualmachines get", any_name=False), "the name to be told")
        await until(lambda: is_ready(stage, name), "ready")


async def test_a_grant_on_hold_without_its_cluster_role_is_not_said_to_give(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, namespace = bare_stage, bare_stage.namespace()
    base = base_role(stage, GET_VMS)
    async with running(kubeconfig):
        role = {"kind": "ClusterRole", "from": base, "preset": "Admin"}
        name = await do(stage.grant, spec("ann", namespaces=[namespace], role=role))
        await until(lambda: is_ready(stage, name), "ready")
        await do(remove_base_role, stage, base)
        await until(lambda: reason(stage, name) == "BaseRoleNotFound", "the hold")
        assert (stage.condition(name, "Active") or {})["status"] == "True"
        await do(stage.request, "DELETE", stage.path("clusterroles", "", f"vmaccess:{name}"))

        def tells_of_nothing() -> bool:
            active = stage.condition(name, "Active") or {}
            return active.get("status") == "False" and stage.get(name)["status"]["namespaces"]["summary"] == "0/1"

        await until(tells_of_nothing, "the end of the access to be told")
        assert not stage.can(ANN, "get", VMS, namespace)
