"""From a change in the cluster to the writes it calls for: event → key → decision → write → status.

Level-triggered: a key says only where to look, and what is done there follows from what is observed at that moment, so it
does not matter which event came, how many were merged into one, or which were missed. The unit of work is one namespace of
one grant, so that a namespace in which writes hang or fail holds up nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple

from vmaccess.cluster.api import GRANTS, Api, ApiError
from vmaccess.cluster.events import Events
from vmaccess.cluster.executor import Executor, WriteFailed
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.policy.access import Access, release_step
from vmaccess.policy.children import BindingContent, Child, GrantId, Kind, Whose
from vmaccess.policy.decide import Decision, bound_accounts, decide_account, decide_namespace
from vmaccess.policy.grant import Deletion, Give, Grant, Leave
from vmaccess.policy.namespaces import Globs, Namespace, Place, place
from vmaccess.policy.report import Facts, Outcome, State, failed, report
from vmaccess.policy.steps import Create, Delete, Patch, Write
from vmaccess.policy.transitions import transitions
from vmaccess.progress import Progress

log = logging.getLogger(__name__)

ACCOUNT_GRACE = 2.0  # seconds for which bindings wait for a ServiceAccount whose creation hangs
STATUS_INTERVAL = 2.0  # seconds between two status writes while things are still moving
BINDINGS_FIRST = 0.1  # seconds after which a ServiceAccount that is still bound is looked at again
MAX_STEPS = 12  # writes in one go before a namespace that keeps changing under us goes to the end of the queue
SLICE = 500  # namespaces decided on before watches and writes get their turn


class Part(Enum):
    """What a key is about."""

    GRANT = "the grant as a whole"
    NAMESPACE = "its Role and RoleBinding in one namespace"
    ACCOUNT = "one of its ServiceAccounts"
    STATUS = "its status"


class Key(NamedTuple):
    """One piece of work."""

    part: Part
    grant: str
    namespace: str = ""
    account: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.part.name.lower(), *self[1:])))


class Controller:
    """Keeps every grant as it is meant to be."""

    def __init__(self, api: Api, *, protected: Iterable[str]) -> None:
        self._api = api
        self._protected = Globs(protected)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.world = World(api, self)
        self.events = Events(api)
        self._executor = Executor(api, self.world.children)
        self._progress: dict[str, Progress] = {}
        self._gone: dict[str, set[str]] = {}  # by name: uids of grants that are known to exist no more
        self._left: set[str] = set()  # uids of grants deleted with --cascade=orphan: their children stay
        self._locks: dict[str, asyncio.Lock] = {}
        self._told_orphaned: set[str] = set()  # names of grants that are gone and left children behind
        self.started = False

    # --- what changes, and what has to be looked at because of it ---

    def wake(self, name: str) -> None:
        """Look at a grant again, whatever the reason."""
        if self.started:
            self.queue.add(Key(Part.GRANT, name), urgent=True)

    def heard_of(self, name: str, uid: str, generation: int) -> None:
        """Something was heard of a grant from elsewhere; nothing is done where the mirror has seen as much already."""
        grant = self.world.grant(name)
        if grant is None or (grant.uid, grant.generation) != (uid, generation):
            self.wake(name)

    def grant_changed(self, old: Grant | None, new: Grant | None) -> None:
        """A new spec or a deletion concerns everything; somebody else's write to the status only the status."""
        if old is not None and new is None and old.deletion is Deletion.ORPHAN:
            self._left.add(old.id.uid)
        if (changed := new or old) is None or not self.started:
            return
        if (
            old is not None
            and new is not None
            and (old.id, old.generation, old.deletion) == (new.id, new.generation, new.deletion)
        ):
            self.queue.add(Key(Part.STATUS, changed.id.name))
        else:
            self.wake(changed.id.name)

    def namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None:
        """Appeared, relabelled, terminating or gone: for every grant that reached it before or reaches it now."""
        if (changed := new or old) is None or not self.started:
            return
        name = changed.name
        for grant in self.world.grants:
            before, after = (place(grant.limits, name, state, self._protected) for state in (old, new))
            if before is not after or after is not Place.OUTSIDE:
                self.queue.add(Key(Part.NAMESPACE, grant.id.name, name), urgent=after is Place.OUTSIDE)
            for namespace, account in grant.accounts:
                if namespace == name:
                    self.queue.add(Key(Part.ACCOUNT, grant.id.name, namespace, account))

    def base_role_changed(self, name: str) -> None:
        """KubeVirt was installed, upgraded or removed: for every grant that trims this ClusterRole."""
        for grant in self.world.grants if self.started else ():
            if grant.base == name:
                self.wake(grant.id.name)

    def child_changed(self, old: Child | None, new: Child | None) -> None:
        """Drift, deletion, a foreign object in our place or out of it: for every grant that it has to do with."""
        if (changed := new or old) is None or not self.started:
            return
        related = {name for child in (old, new) if child is not None for name in child.relates_to()}
        part, account = Part.NAMESPACE, ""
        if changed.kind is Kind.SERVICE_ACCOUNT:
            part, account = Part.ACCOUNT, changed.name
            related |= {grant.id.name for grant in self.world.grants if (changed.namespace, account) in grant.accounts}
        for name in related:
            progress = self._progress.get(name)
            if progress is not None:
                if new is None and old is not None and old.whose(progress.grant.id) is Whose.OURS:
                    progress.lost[old.namespace] = _now()
                self.queue.add(Key(part, name, changed.namespace, account))
            elif new is not None or not self.world.related_namespaces(name):
                self.queue.add(Key(Part.GRANT, name))

    def orphans(self) -> int:
        """How many children of grants that are gone were left behind on purpose, by --cascade=orphan."""
        gone = [name for name in self.world.related_grants() if self.world.grant(name) is None]
        return sum(len(self._left_behind(name)) for name in gone)

    # --- work ---

    async def start(self) -> None:
        """Wait for the mirrors, then look at everything once."""
        await self.world.synced()
        self.started = True
        for name in {grant.id.name for grant in self.world.grants} | set(self.world.related_grants()):
            self.wake(name)
        log.info("watching %d grants and %d namespaces", len(self.world.grants), len(self.world.namespaces))

    async def work(self) -> None:
        """One worker; any number may run side by side."""
        while True:
            key = await self.queue.get()
            try:
                await self._look_at(key)
            except (WriteFailed, ApiError) as error:
                delay, tries = self.queue.retry(key, at_least=error.retry_after)
                log.log(logging.WARNING if tries == 1 else logging.DEBUG, "%s: %s; again in %.1f s", key, error, delay)
            except Exception:
                delay, _ = self.queue.retry(key)
                log.exception("%s: unexpected; again in %.1f s", key, delay)
            finally:
                self.queue.done(key)

    async def _look_at(self, key: Key) -> None:
        grant = self.world.grant(key.grant)
        if grant is None:
            await self._look_at_gone(key)
        elif key.part is Part.GRANT:
            await self._look_at_grant(grant)
            self.queue.forget(key)
        elif (progress := self._progress.get(key.grant)) is not None and progress.is_about(grant, self.world.base(grant.base)):
            await (self._write_status(progress) if key.part is Part.STATUS else self._settle(key))
        # else the grant itself waits in the queue, and whatever is to be done follows from it

    async def _look_at_grant(self, grant: Grant) -> None:
        """Decide anew, for every ServiceAccount and namespace that the grant has to do with, whether there is work."""
        name = grant.id.name
        progress = Progress.of(grant, self.world.base(grant.base), self._progress.get(name), now=_now())
        self._progress[name] = progress
        if isinstance(progress.intent, Leave):
            self._tell_orphaned(grant.id)
            return
        for account in self._accounts_of(progress):
            self._plan(progress, Key(Part.ACCOUNT, name, *account))
        progress.access = self._access(progress)
        for count, namespace in enumerate(self._namespaces_of(progress)):
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            self._plan(progress, Key(Part.NAMESPACE, name, namespace))
        self.queue.add(Key(Part.STATUS, name))

    def _plan(self, progress: Progress, key: Key) -> None:
        decision = self._decide(progress, key)
        if isinstance(decision.step, Write):
            self.queue.add(key, urgent=isinstance(decision.step, Patch | Delete))
            if (known := progress.outcome(key)) is not None and known.state is State.FAILED:
                return  # it stays failed until a try succeeds
        progress.note(key, decision.outcome)

    async def _settle(self, key: Key) -> None:
        """Bring one namespace, or one ServiceAccount, of one grant to where it should be: one write after the other."""
        drifted = False
        for _ in range(MAX_STEPS):
            progress, grant = self._progress.get(key.grant), self.world.grant(key.grant)
            if progress is None or grant is None or not progress.is_about(grant, self.world.base(grant.base)):
                self.wake(key.grant)
                return
            decision = self._decide(progress, key)
            if not isinstance(decision.step, Write):
                self._settled(progress, key, decision, drifted=drifted)
                return
            if self._bindings_first(progress, key, decision.step):
                progress.note(key, decision.outcome)
                self.queue.add_after(key, BINDINGS_FIRST)
                return
            if not await self._owner_lives(progress, key, decision.step):
                self.queue.retry(key)
                return
            drifted = drifted or progress.outcome(key) == Outcome(State.GRANTED)
            try:
                await self._executor.write(decision.step, grant.id)
            except WriteFailed as error:
                progress.note(key, failed(decision.outcome, error.reason, error.message))
                self._follow_up(progress, key)
                raise
        self.queue.retry(key)

    def _settled(self, progress: Progress, key: Key, decision: Decision, *, drifted: bool) -> None:
        self.queue.forget(key)
        progress.lost.pop(key.namespace, None)
        if drifted and decision.outcome == Outcome(State.GRANTED):
            where = f"ServiceAccount {key.account} in namespace {key.namespace}" if key.account else f"namespace {key.namespace}"
            log.info("%s: drift repaired in %s", key.grant, where)
            self.events.tell(
                progress.grant.id,
                "Normal",
                "DriftRepaired",
                f"what was changed by somebody else is as it should be again: {where}",
            )
        progress.note(key, decision.outcome)
        self._follow_up(progress, key)

    def _follow_up(self, progress: Progress, key: Key) -> None:
        if key.part is Part.ACCOUNT and self._access(progress) != progress.access:
            self.wake(key.grant)  # whom the bindings name has changed
        self.queue.add(Key(Part.STATUS, key.grant))

    def _decide(self, progress: Progress, key: Key) -> Decision:
        grant, namespace = progress.grant, self.world.namespace(key.namespace)
        if key.part is Part.ACCOUNT:
            where = (key.namespace, key.account)
            account = self.world.account(*where)
            return decide_account(grant, progress.intent, where, namespace, self._protected, account, self._is_alive)
        observed = [child for child in self.world.related(key.grant, key.namespace) if child.kind is not Kind.SERVICE_ACCOUNT]
        at = key.namespace, place(grant.limits, key.namespace, namespace, self._protected)
        return decide_namespace(grant, progress.intent, progress.access, at, observed)

    def _is_alive(self, grant_id: GrantId) -> bool:
        grant = self.world.grant(grant_id.name)
        return grant is not None and grant.id == grant_id and grant.deletion is Deletion.NONE

    def _access(self, progress: Progress) -> Access | None:
        """What is bound, once it is known which of the listed ServiceAccounts are there and ours."""
        if not isinstance(progress.intent, Give):
            return None
        grant = progress.grant
        if not any(outcome.state is State.PENDING for outcome in progress.accounts.values()):
            progress.awaited_since = None
        else:
            if progress.awaited_since is None:
                progress.awaited_since = _now()
                self.queue.add_after(Key(Part.GRANT, grant.id.name), ACCOUNT_GRACE)
            if _now() - progress.awaited_since < ACCOUNT_GRACE:
                return None
        return Access(progress.intent.trimmed.rules, (*bound_accounts(grant, self.world.account), *progress.intent.subjects))

    def _accounts_of(self, progress: Progress) -> set[tuple[str, str]]:
        related = self.world.related(progress.grant.id.name)
        ours = {(child.namespace, child.name) for child in related if child.kind is Kind.SERVICE_ACCOUNT}
        return ours | progress.grant.accounts.keys() | progress.accounts.keys()

    def _namespaces_of(self, progress: Progress) -> set[str]:
        grant = progress.grant
        names = {*self.world.related_namespaces(grant.id.name), *progress.namespaces}
        if (selection := grant.limits.selection) is not None:
            names |= selection.namespaces
            if selection.selector is not None:
                names |= {namespace.name for namespace in self.world.namespaces}
        return names

    def _bindings_first(self, progress: Progress, key: Key, step: Write) -> bool:
        """Whether a ServiceAccount has to wait for bindings: its name alone, still bound, could be taken by somebody else."""
        if key.part is not Part.ACCOUNT or not isinstance(step, Delete):
            return False
        subject = (key.namespace, key.account)
        for binding in self.world.related(key.grant):
            if binding.kind is not Kind.ROLE_BINDING or binding.whose(progress.grant.id) is Whose.FOREIGN:
                continue
            outcome = progress.namespaces.get(binding.namespace)
            if outcome is not None and outcome.reason is not None:
                continue  # that one cannot be had at present: rather kill the tokens than wait for it
            assert isinstance(binding.content, BindingContent)  # noqa: S101 - by construction of Child
            if any((bound.namespace, bound.name) == subject for bound in binding.content.subjects):
                return True
        return False

    # --- whether the owner lives ---

    async def _owner_lives(self, progress: Progress, key: Key, step: Write) -> bool:
        """Read the grant by name where its children tell something else than the mirror: the watches are unordered.

        A child that vanished may have been garbage collected with a grant whose deletion has not been seen yet, one without
        its ownerReference may have been orphaned by it, and a child of another uid is condemned only once ours is known to live.
        """
        since: float | None = None
        match step:
            case Create():
                since = progress.lost.get(key.namespace)
            case Delete(unchanged=True):
                since = 0.0
            case Patch(child, marks=GrantId()) if child.marked_owner is None:
                since = _now()
        if since is None:
            return True
        async with self._locks.setdefault(key.grant, asyncio.Lock()):
            if progress.verified_at <= since:
                asked = _now()
                if await self._living(key.grant) != progress.grant.id:
                    return False
                progress.verified_at = asked
        return True

    async def _living(self, name: str) -> GrantId | None:
        """The grant of this name as the API server has it now; None where there is none or it is being deleted."""
        try:
            metadata = (await self._api.get(GRANTS.path(name=name)))["metadata"]
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return None if "deletionTimestamp" in metadata else GrantId(metadata["name"], metadata["uid"])

    async def _look_at_gone(self, key: Key) -> None:
        """Remove what grants of this name owned that exist no more, after one read of the name: a partial list never revokes."""
        name = key.grant
        self._progress.pop(name, None)
        if key.part is Part.STATUS:
            return
        if key.part is not Part.GRANT:
            await self._release(key)
            return
        related = list(self.world.related(name))
        if not related:
            self._gone.pop(name, None)
            self._locks.pop(name, None)
            self._told_orphaned.discard(name)
            return
        owners = {owner.uid for child in related if (owner := child.owner) is not None and owner.name == name} - self._left
        if owners - self._gone.get(name, set()):
            async with self._locks.setdefault(name, asyncio.Lock()):
                try:
                    raw = await self._api.get(GRANTS.path(name=name))
                except ApiError as error:
                    if error.status != HTTPStatus.NOT_FOUND:
                        raise
                else:
                    owners.discard(raw["metadata"]["uid"])
                    self.queue.retry(key)  # the mirror is behind; it will bring this grant
            self._gone.setdefault(name, set()).update(owners)
            log.info(
                "%s: the grant is gone, removing its children in %d namespaces", name, len({child.namespace for child in related})
            )
        condemned = [child for child in related if (owner := child.owner) is not None and owner.uid in self._gone.get(name, ())]
        for child in condemned:
            if child.kind is Kind.SERVICE_ACCOUNT:
                self.queue.add(Key(Part.ACCOUNT, name, child.namespace, child.name), urgent=True)
            else:
                self.queue.add(Key(Part.NAMESPACE, name, child.namespace), urgent=True)
        if (left := self._left_behind(name)) and name not in self._told_orphaned:
            self._told_orphaned.add(name)
            self._tell_orphaned(left[0])

    async def _release(self, key: Key) -> None:
        """Remove the children, in one namespace, of grants that exist no more: bindings, then Roles, then ServiceAccounts."""
        gone = self._gone.get(key.grant)
        if not gone:
            self.wake(key.grant)
            return
        for _ in range(MAX_STEPS):
            here = list(self.world.related(key.grant, key.namespace))
            if key.part is Part.ACCOUNT:
                if any(
                    child.kind is Kind.ROLE_BINDING and (owner := child.owner) and owner.uid in gone
                    for child in self.world.related(key.grant)
                ):
                    self.queue.add_after(key, BINDINGS_FIRST)
                    return
                here = [child for child in here if (child.kind, child.name) == (Kind.SERVICE_ACCOUNT, key.account)]
            else:
                here = [child for child in here if child.kind is not Kind.SERVICE_ACCOUNT]
            step = release_step(gone, here)
            if not isinstance(step, Write):
                self.queue.forget(key)
                return
            await self._executor.write(step, GrantId(key.grant, ""))
        self.queue.retry(key)

    def _left_behind(self, name: str) -> list[GrantId]:
        """The marks of those children that carry the grant's label and no owner."""
        related = self.world.related(name)
        return [
            mark
            for child in related
            if child.marked_owner is None and (mark := child.marked_label) is not None and mark.name == name
        ]

    def _tell_orphaned(self, grant: GrantId) -> None:
        count = sum(
            1 for child in self.world.related(grant.name) if (mark := child.marked_label) is not None and mark.name == grant.name
        )
        self.events.tell(
            grant,
            "Warning",
            "Orphaned",
            f"deleted with --cascade=orphan: {count} ServiceAccounts, Roles and RoleBindings stay, still grant access and are no "
            f"longer managed; find them by the label vmaccess.dev/grant={grant.name}",
        )

    # --- status ---

    async def _write_status(self, progress: Progress) -> None:
        """Report what has come of the grant; while things still move, at most once in STATUS_INTERVAL."""
        grant = self.world.grant(progress.grant.id.name)
        if grant is None or isinstance(progress.intent, Leave):
            return
        key, due = Key(Part.STATUS, grant.id.name), progress.reported_at + STATUS_INTERVAL
        if progress.unsettled and _now() < due:
            self.queue.add_after(key, due - _now())
            return
        status = report(grant, self._facts(progress), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.queue.forget(key)
        if status == grant.status:
            return
        progress.reported_at = _now()
        body = {"metadata": {"uid": grant.id.uid}, "status": _replacing(grant.status, status)}
        try:
            answer = await self._api.patch(f"{GRANTS.path(name=grant.id.name)}/status", body)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            return  # it is gone, or another by now: the watch will tell
        self.world.grants.observe(answer)
        for note in transitions(grant.status, status):
            log.info("%s: %s: %s", grant.id.name, note.reason, note.message)
            self.events.tell(grant.id, note.kind, note.reason, note.message)

    def _facts(self, progress: Progress) -> Facts:
        grant = progress.grant
        bindings = (
            child for child in self.world.bindings(grant) if isinstance(child.content, BindingContent) and child.content.subjects
        )
        accounts = (child for child in self.world.related(grant.id.name) if child.kind is Kind.SERVICE_ACCOUNT)
        return Facts(
            intent=progress.intent,
            namespaces=progress.namespaces,
            accounts=progress.accounts,
            bound=len({child.namespace for child in bindings}),
            owned=tuple((child.namespace, child.name) for child in accounts if child.whose(grant.id) is Whose.OURS),
        )


def _replacing(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    """A merge patch that leaves nothing of `old` behind: what is not in `new` becomes null."""
    old = old if isinstance(old, dict) else {}
    removed: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    return removed | {key: _replacing(old.get(key), value) if isinstance(value, dict) else value for key, value in new.items()}


def _now() -> float:
    return asyncio.get_running_loop().time()
