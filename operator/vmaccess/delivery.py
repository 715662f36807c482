"""Keeps a kubeconfig for a ServiceAccount in a Secret, for those grants that ask for one, in namespaces where it may.

Secrets are read by name and never listed: of all the Secrets there are, the operator may see only those it makes. So nothing
tells when one of them is changed, and each is looked at again every few minutes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vmaccess.cluster.api import Api, ApiError
from vmaccess.cluster.executor import MAX_STEPS, Executor, WriteFailed
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.secrets import Secrets, lacks_right
from vmaccess.cluster.world import World
from vmaccess.keys import Key, Part
from vmaccess.policy.children import AccountContent, Child, GrantId, Whose
from vmaccess.policy.decide import GRANTED, PENDING, REVOKING
from vmaccess.policy.delivery import Drop, Issue, Rest, Rewrite, Wish, delivery_step, removal_step, renewal, unwanted_step
from vmaccess.policy.kept import Secret, Token
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.namespaces import Globs
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Outcome, ScopedName, State
from vmaccess.policy.steps import Patch, Refused, Wait
from vmaccess.policy.wish import Goal, Names, Wanted, kubeconfigs_of, wanted_of
from vmaccess.progress import Progress, loop_time
from vmaccess.timing import Timing

LOOKED_AT = 300.0  # seconds after which the Secrets are read again: nothing tells that somebody has changed them
DESPERATE = 4  # failures after which a ServiceAccount no longer waits for its Secrets: with it their tokens die, too
CLUSTER = "kubernetes"  # name of the cluster in a kubeconfig


@dataclass(frozen=True, slots=True)
class Offer:
    """What kubeconfigs say of the API server. `server` is None where it has to stand in the grant; `ca` is a file with PEM, None
    for the system's own trust.
    """

    server: str | None
    ca: str | None

    def cluster(self, server: str | None) -> ClusterEntry | str:
        """The cluster as a kubeconfig names it, by the address in the grant where there is one; else why there is none.

        The file is read anew: it may be rotated.
        """
        if (address := server or self.server) is None:
            return (
                "nobody has told the address of the API server that its kubeconfig is to have: set kubeconfig.server, or the "
                "operator's option --kubeconfig-server"
            )
        try:
            return ClusterEntry(CLUSTER, address, Path(self.ca).read_bytes() if self.ca else None)
        except OSError as error:
            return f"the CA of the API server cannot be read: {error}"


NOTHING_OFFERED = Offer(None, None)


class Delivery:
    """Works on the keys of kubeconfigs."""

    def __init__(
        self, api: Api, world: World, queue: WorkQueue[Key], executor: Executor, timing: Timing, protected: Globs, offer: Offer
    ) -> None:
        self._secrets = Secrets(api)
        self._world, self._queue, self._executor, self._timing = world, queue, executor, timing
        self._protected, self._offer = protected, offer
        self._settled: dict[Key, Wanted] = {}  # what was wanted when there was nothing left to do
        self._tried: dict[Key, Wanted] = {}  # what was last tried
        self._seen: dict[Key, set[str]] = {}  # names of Secrets that there are, should the ServiceAccount forget them or be gone
        self._asked: dict[Key, Names] = {}  # names that were asked for and not looked at yet: a process before may have made them
        self._fresh: dict[Key, tuple[Token, float]] = {}  # the last token, and the loop's time at which it was asked for
        self._expires: dict[Key, datetime] = {}

    def tokens(self, progress: Progress) -> dict[ScopedName, datetime]:
        """When the tokens in the kubeconfigs of a grant expire, as far as it is known, by ServiceAccount."""
        keys = (Key(Part.KUBECONFIG, progress.grant.id.name, *account) for account in progress.kubeconfigs)
        return {(key.namespace, key.account): self._expires[key] for key in keys if key in self._expires}

    def accounts(self, grant: str) -> set[ScopedName]:
        """ServiceAccounts, there or gone, of which there may be Secrets."""
        return {(key.namespace, key.account) for key, names in self._seen.items() if key.grant == grant and names}

    def forget(self, grant: str) -> None:
        """The grant is gone."""
        for known in (self._settled, self._tried, self._seen, self._asked, self._fresh, self._expires):
            for key in [key for key in known if key.grant == grant]:
                del known[key]

    def doubt(self, key: Key) -> None:
        """Its turn has come at a moment at which nothing could be done: `plan` is to give it another, whatever has settled."""
        self._settled.pop(key, None)

    def plan(self, progress: Progress, key: Key) -> None:
        """Have the kubeconfig looked at, unless it is as it should be, or there is nothing to touch."""
        wanted = self._wanted(progress, key)
        goal = wanted.goal
        if self._settled.get(key) == wanted or (goal is None and not wanted.names):
            progress.note(key, _outcome(goal))
            return
        self._settled.pop(key, None)
        known = progress.outcome(key)
        failing = known is not None and known.reason is not None
        if isinstance(goal, Refused | Wait):
            progress.note(key, _outcome(goal))
        elif not failing:
            progress.note(key, PENDING if goal is not None else REVOKING if self._may_be_there(key) else None)
        self._asked[key] = wanted.names
        if not (failing and self._queue.failures(key) and self._tried.get(key) == wanted):  # else its back-off goes on
            self._queue.add(key, urgent=self._takes_away(key, wanted))

    def comes_first(self, progress: Progress, account: Child) -> bool:
        """Whether a ServiceAccount that is to go has to wait for its kubeconfig's Secrets; not for what cannot be removed."""
        key = Key(Part.KUBECONFIG, progress.grant.id.name, account.namespace, account.name)
        if account.whose(progress.grant.id) is not Whose.OURS or not self._may_be_there(key):
            return False
        outcome = progress.outcome(key)
        return outcome is not None and not outcome.final and self._queue.failures(key) < DESPERATE

    async def look_at(self, progress: Progress, key: Key) -> None:
        """Bring the kubeconfig to where it should be. Raises what went wrong, after that has been noted."""
        try:
            await self._look_at(progress, key)
        finally:
            grant = self._world.grant(key.grant)
            if grant is None or grant.id != progress.grant.id:
                self.forget(key.grant)  # it has ended meanwhile, and nobody else will

    async def _look_at(self, progress: Progress, key: Key) -> None:
        self._settled.pop(key, None)
        wanted = self._tried[key] = self._wanted(progress, key)
        goal, grant = wanted.goal, progress.grant.id
        outcome, error, gone = _outcome(goal), None, set[str]()
        try:
            if isinstance(goal, Wish):
                try:
                    outcome = await self._deliver(progress, key, goal)
                except (ApiError, WriteFailed) as failed:  # there may still be something to take back
                    outcome, error = _failed(grant, key, failed, revoking=False), failed
            rest = wanted.names
            if goal is None or outcome == GRANTED:
                gone = await self._remove(grant, key, wanted.leaving)
                done = {*wanted.leaving, goal.secret if isinstance(goal, Wish) else ""}
                rest = [name for name in wanted.names if name not in done]
            unread = await self._end_unwanted(grant, key, rest, wanted.rotation)
            if isinstance(goal, Wait):
                error = unread  # nothing else is to come of it, so it is tried again for this
            elif unread is not None and error is None and outcome is not None and outcome.reason is not None:
                told = f"{outcome.message}; what is to end of earlier tokens cannot be seen: {unread}"
                outcome = replace(outcome, message=told)
        except Exception as worse:
            self._expires.pop(key, None)
            progress.note(key, _failed(grant, key, worse, revoking=True))
            raise
        progress.note(key, outcome)
        await self._forget_names(progress, key, gone)
        if outcome is not None and outcome.reason is not None:
            self._expires.pop(key, None)
        if error is not None:
            raise error
        if outcome is not None and outcome.reason is not None:
            self._queue.retry(key)
            return
        self._asked.pop(key, None)
        after = self._wanted(progress, key)
        if after.goal == goal and after.rotation == wanted.rotation and {*after.names} <= {*wanted.names}:
            self._settled[key] = after  # else what is wanted now is not what was done
        if outcome is None:
            self._expires.pop(key, None)
        self._queue.forget(key)

    def _wanted(self, progress: Progress, key: Key) -> Wanted:
        grant, account = self._world.grant(key.grant), self._world.account(key.namespace, key.account)
        there = self._may_be_there(key)
        if grant is None or account is None or account.whose(grant.id) is not Whose.OURS:
            return Wanted(None, there, there)
        asked = self._asked.get(key, ())
        return wanted_of(grant, progress.intent, account, self._offer.cluster, self._protected, there=there, asked=asked)

    def _may_be_there(self, key: Key) -> Names:
        """Names of the Secrets that this process has seen or is about to make, or that the ServiceAccount remembers."""
        grant, account = self._world.grant(key.grant), self._world.account(key.namespace, key.account)
        names = {*self._seen.get(key, ())}
        if grant is not None and account is not None and account.whose(grant.id) is Whose.OURS:
            names |= {*kubeconfigs_of(account)}
        return tuple(sorted(names))

    def _takes_away(self, key: Key, wanted: Wanted) -> bool:
        """Whether a credential is to end: one that is not wanted any more, or that another is to take the place of."""
        before = self._tried.get(key)
        return bool(wanted.leaving) or (before is not None and before.rotation != wanted.rotation)

    async def _deliver(self, progress: Progress, key: Key, wish: Wish) -> Outcome:
        for _ in range(MAX_STEPS):
            if self._wanted(progress, key).goal != wish:
                self._queue.add(key)
                return PENDING
            stored, bound = await self._read(wish.grant, key, wish.secret)
            if wish.secret in self._seen.get(key, ()):
                await self._remember(progress, key, wish.secret)  # somebody may have had the ServiceAccount forget it
            now = self._timing.clock.reading()
            last, born = self._fresh.get(key, (None, 0.0))
            young = born + renewal(wish, last) - last.issued - loop_time() if last is not None else 0.0
            fresh = last.secret_uid if last is not None and young > 0 else ""
            match delivery_step(wish, stored, bound, now, fresh=fresh):
                case Refused() as refused:
                    return _refusal(refused)
                case Rest(seconds, token):
                    self._expires[key] = datetime.fromtimestamp(token.expires, UTC)
                    wait = seconds if seconds > 0 else young if young > 0 else LOOKED_AT
                    self._queue.add_after(key, min(wait, LOOKED_AT))
                    return GRANTED
                case Drop() as drop:
                    await self._secrets.delete(wish.namespace, drop)
                case Rewrite(secret, token):
                    await self._secrets.write(wish, secret, token.value)
                case Issue(slot, lifetime):
                    await self._remember(progress, key, wish.secret)
                    born = loop_time()
                    self._fresh[key] = await self._secrets.issue(wish, slot, lifetime, stored, now), born
        raise ApiError(0, "Conflict", "somebody else keeps changing the Secrets of this kubeconfig")

    async def _read(self, grant: GrantId, key: Key, name: str) -> tuple[Secret | None, list[Secret | None]]:
        stored, bound = await self._secrets.read(grant, key.namespace, name)
        if any(each is not None and each.marked for each in (stored, *bound)):
            self._seen.setdefault(key, set()).add(name)
        return stored, bound

    async def _remember(self, progress: Progress, key: Key, name: str) -> None:
        """Have the ServiceAccount say that there may be a Secret of this name, before there is one."""
        self._seen.setdefault(key, set()).add(name)
        account = self._world.account(key.namespace, key.account)
        if account is None or account.whose(progress.grant.id) is not Whose.OURS:
            raise ApiError(0, "Conflict", f"ServiceAccount {key.namespace}/{key.account} has just gone")
        if name not in (known := kubeconfigs_of(account)):
            await self._note_names(progress, account, (*known, name))

    async def _note_names(self, progress: Progress, account: Child, names: Iterable[str]) -> None:
        automount = account.content.automount if isinstance(account.content, AccountContent) else None
        content = AccountContent(automount, tuple(sorted(names)))
        await self._executor.write(Patch(account, content, None), progress.grant.id)
        noted = self._world.account(account.namespace, account.name)
        if noted is None or kubeconfigs_of(noted) != content.kubeconfigs:
            raise ApiError(0, "Conflict", f"ServiceAccount {account.namespace}/{account.name} was changed meanwhile")

    async def _forget_names(self, progress: Progress, key: Key, names: Collection[str]) -> None:
        """Have the ServiceAccount forget the names of Secrets that are gone."""
        account = self._world.account(key.namespace, key.account)
        if account is None or account.whose(progress.grant.id) is not Whose.OURS:
            return
        if {*names} & {*(known := kubeconfigs_of(account))}:
            await self._note_names(progress, account, (name for name in known if name not in names))

    async def _end_unwanted(self, grant: GrantId, key: Key, names: Names, rotation: str) -> ApiError | None:
        """End the tokens of earlier rotations, although nothing can be put in their place.

        Returns what was in the way of seeing whether there are any, where there may be.
        """
        unread = None
        for name in names:
            for _ in range(MAX_STEPS):
                try:
                    _, bound = await self._read(grant, key, name)
                except ApiError as error:
                    unread = unread or (error if name in self._may_be_there(key) else None)
                    break
                if (step := unwanted_step(rotation, bound, heir=self._heir(key, name))) is None:
                    break
                self._expires.pop(key, None)
                await self._secrets.delete(key.namespace, step)
            else:
                unread = unread or ApiError(
                    0, "Conflict", f"Secret {key.namespace}/{name}, or one beside it, is kept from its end"
                )
        return unread

    async def _remove(self, grant: GrantId, key: Key, names: Names) -> set[str]:
        """Delete the Secrets of kubeconfigs that are not wanted any more; returns their names.

        Each by itself: a name that somebody else has written there must not save the others. Of one that another ServiceAccount
        of the grant has now, what is that one's stays.
        """
        there = self._may_be_there(key)
        gone, errors = set[str](), list[ApiError]()
        for name in names:
            try:
                await self._remove_one(grant, key, name)
                gone.add(name)
            except ApiError as error:
                if name in there or not lacks_right(error):
                    errors.append(error)
        if key in self._seen:
            self._seen[key] -= gone
        if errors:
            raise errors[0]
        return gone

    async def _remove_one(self, grant: GrantId, key: Key, name: str) -> None:
        for _ in range(MAX_STEPS):
            stored, bound = await self._read(grant, key, name)
            if (step := removal_step(stored, bound, heir=self._heir(key, name))) is None:
                return
            await self._secrets.delete(key.namespace, step)
        raise ApiError(0, "Conflict", f"Secret {key.namespace}/{name}, or one beside it, is still there after it was deleted")

    def _heir(self, key: Key, name: str) -> str | None:
        """Another ServiceAccount of the grant that is to have the Secret of this name, by the spec as it is now."""
        grant = self._world.grant(key.grant)
        others = grant.accounts.values() if grant is not None else ()
        return next(
            (
                listed.name
                for listed in others
                if listed.kubeconfig is not None
                and (listed.namespace, listed.kubeconfig.secret_name) == (key.namespace, name)
                and listed.name != key.account
            ),
            None,
        )


def _outcome(goal: Goal) -> Outcome | None:
    match goal:
        case Wish():
            return GRANTED
        case Wait():
            return PENDING
        case Refused():
            return _refusal(goal)
    return None


def _refusal(refused: Refused) -> Outcome:
    return Outcome(State.FAILED, refused.reason, refused.message)


def _failed(grant: GrantId, key: Key, error: Exception, *, revoking: bool) -> Outcome:
    what = f"the kubeconfig of ServiceAccount {key.namespace}/{key.account}"
    forbidden = lacks_right(error)
    cure = (
        f"the operator may not see to Secrets and tokens in namespace {key.namespace!r}; to allow it for this one: "
        f"kubectl vmaccess rights {grant.name} | kubectl apply -f -"
    )
    if revoking:
        why = f"{error}; {cure}" if forbidden else str(error)
        return Outcome(State.REVOKING, Reason.REVOCATION_FAILED, f"{what} cannot be taken back: {why}", final=forbidden)
    if forbidden:
        return Outcome(State.FAILED, Reason.KUBECONFIG_FORBIDDEN, f"{what}: {cure}", final=True)
    return Outcome(State.FAILED, Reason.API_ERROR, f"{what}: {error}")
