"""Keeps a kubeconfig for a ServiceAccount in a Secret, for those grants that ask for one, in namespaces where it may.

Secrets are read by name and never listed: of all the Secrets there are, the operator may see only those it makes. So nothing
tells when one of them is changed, and each is looked at again every few minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from vmaccess.cluster.api import SECRETS, SERVICE_ACCOUNTS, Api, ApiError
from vmaccess.cluster.executor import MAX_STEPS, Executor
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.keys import Key, Part
from vmaccess.model.spec import DEFAULT_LIFETIME, Spec
from vmaccess.policy.children import AccountContent, Child, GrantId, Whose
from vmaccess.policy.credentials import EXPIRES
from vmaccess.policy.decide import GRANTED, PENDING, REVOKING
from vmaccess.policy.delivery import (
    SLACK,
    Drop,
    Issue,
    Rest,
    Rewrite,
    Secret,
    Token,
    Wish,
    delivery_step,
    parse_token,
    read_secret,
    removal_step,
    slots,
)
from vmaccess.policy.grant import Grant, Hold, Leave, Take
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.namespaces import Globs, globs
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Outcome, ScopedName, State
from vmaccess.policy.steps import Patch, Refused, Wait
from vmaccess.policy.times import Reading, in_words
from vmaccess.progress import Progress
from vmaccess.timing import Timing

log = logging.getLogger(__name__)

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

    def entry(self, server: str) -> ClusterEntry:
        """The cluster as a kubeconfig names it. The file is read anew: it may be rotated."""
        return ClusterEntry(CLUSTER, server, Path(self.ca).read_bytes() if self.ca else None)


NOTHING_OFFERED = Offer(None, None)
Goal = Wish | Refused | Wait | None


class Delivery:
    """Works on the keys of kubeconfigs."""

    def __init__(
        self, api: Api, world: World, queue: WorkQueue[Key], executor: Executor, timing: Timing, protected: Globs, offer: Offer
    ) -> None:
        self._api, self._world, self._queue, self._executor, self._timing = api, world, queue, executor, timing
        self._protected, self._offer = protected, offer
        self._settled: dict[Key, tuple[Goal, Sequence[str]]] = {}  # what was asked for when there was nothing left to do
        self._tried: dict[Key, tuple[Goal, Sequence[str]]] = {}  # the same for those that fail
        self._names: dict[Key, set[str]] = {}  # of Secrets that this process has made, should the ServiceAccount forget
        self._fresh: dict[Key, tuple[str, float]] = {}  # what the last token is bound to, and the loop's time of its renewal
        self._expires: dict[Key, datetime] = {}

    def tokens(self, progress: Progress) -> dict[ScopedName, datetime]:
        """When the tokens in the kubeconfigs of a grant expire, as far as it is known, by ServiceAccount."""
        keys = (Key(Part.KUBECONFIG, progress.grant.id.name, *account) for account in progress.kubeconfigs)
        return {(key.namespace, key.account): self._expires[key] for key in keys if key in self._expires}

    def forget(self, grant: str) -> None:
        """The grant is gone."""
        for known in (self._settled, self._tried, self._names, self._fresh, self._expires):
            for key in [key for key in known if key.grant == grant]:
                del known[key]

    def doubt(self, key: Key) -> None:
        """Its turn has come at a moment at which nothing could be done: `plan` is to give it another, whatever has settled."""
        self._settled.pop(key, None)

    def plan(self, progress: Progress, key: Key) -> None:
        """Have the kubeconfig looked at, unless it is as it should be, or nothing is to be touched."""
        goal, names = self._goal(progress, key)
        if self._settled.get(key) == (goal, names):
            progress.note(key, _outcome(goal))
            return
        self._settled.pop(key, None)
        if isinstance(goal, Refused | Wait) or (goal is None and not names):
            progress.note(key, _outcome(goal))
            return
        known = progress.outcome(key)
        failing = known is not None and known.reason is not None
        if not failing:
            progress.note(key, PENDING if goal is not None else REVOKING)
        if not (failing and self._queue.failures(key) and self._tried.get(key) == (goal, names)):  # else its back-off goes on
            self._queue.add(key, urgent=self._takes_away(key, goal, names))

    def _takes_away(self, key: Key, goal: Goal, names: Sequence[str]) -> bool:
        """Whether a credential is to end: one that is not wanted any more, or that another is to take the place of."""
        if not isinstance(goal, Wish):
            return True
        before, _ = self._tried.get(key, (None, ()))
        return any(name != goal.secret for name in names) or (isinstance(before, Wish) and before.rotation != goal.rotation)

    def comes_first(self, progress: Progress, account: Child) -> bool:
        """Whether a ServiceAccount that is to go has to wait for its kubeconfig's Secrets; not for what cannot be removed."""
        if not _kubeconfigs(account) or account.whose(progress.grant.id) is not Whose.OURS:
            return False
        key = Key(Part.KUBECONFIG, progress.grant.id.name, account.namespace, account.name)
        outcome = progress.outcome(key)
        return outcome is not None and not outcome.final and self._queue.failures(key) < DESPERATE

    async def look_at(self, progress: Progress, key: Key) -> None:
        """Bring the kubeconfig to where it should be. Raises what went wrong, after that has been noted."""
        self._settled.pop(key, None)
        goal, names = self._tried[key] = self._goal(progress, key)
        removing = goal is None
        try:
            outcome = await self._deliver(progress, key, goal) if isinstance(goal, Wish) else _outcome(goal)
            if goal is None or outcome == GRANTED:
                removing = True
                kept = goal.secret if isinstance(goal, Wish) else ""
                await self._remove(progress, key, [name for name in names if name != kept])
        except Exception as error:
            self._expires.pop(key, None)
            progress.note(key, _failed(progress.grant.id, key, error, revoking=removing))
            raise
        progress.note(key, outcome)
        if outcome is not None and outcome.reason is not None:
            self._expires.pop(key, None)
            self._queue.retry(key)
            return
        if outcome is None or outcome == GRANTED:
            self._settled[key] = self._goal(progress, key)
        if outcome is None:
            self._names.pop(key, None)
            self._expires.pop(key, None)
        self._queue.forget(key)

    def _goal(self, progress: Progress, key: Key) -> tuple[Goal, Sequence[str]]:
        """What is wanted, and the names of the Secrets that hold a kubeconfig or may do so."""
        grant, account = self._world.grant(key.grant), self._world.account(key.namespace, key.account)
        if grant is None or account is None or account.whose(grant.id) is not Whose.OURS:
            return None, ()
        names = tuple(sorted({*_kubeconfigs(account), *self._names.get(key, ())}))
        listed = grant.accounts.get((key.namespace, key.account))
        wanted = listed.kubeconfig if listed is not None else None
        match progress.intent:
            case Hold() if wanted is not None and wanted.secret_name in names:
                names = (wanted.secret_name,)  # kept going, as all that is there
            case Hold() | Leave():
                return Wait("nothing is given and nothing is taken") if names else None, ()
        if wanted is None or isinstance(progress.intent, Take) or key.namespace in self._protected:
            return None, names
        if (server := wanted.server or self._offer.server) is None:
            return Refused(Reason.SERVER_UNKNOWN, _server_unknown(key)), names
        try:
            cluster = self._offer.entry(server)
        except OSError as error:
            return Refused(Reason.SERVER_UNKNOWN, f"the CA of the API server cannot be read: {error}"), names
        wish = Wish(
            grant=grant.id,
            namespace=key.namespace,
            account=key.account,
            account_uid=account.uid,
            secret=wanted.secret_name,
            lifetime=wanted.token_lifetime_seconds or DEFAULT_LIFETIME,
            ends=grant.limits.ends.timestamp() if grant.limits.ends is not None else math.inf,
            cluster=cluster,
            context_namespace=_context_namespace(grant, key),
            rotation=hashlib.sha256(grant.rotation.encode()).hexdigest()[:16] if grant.rotation else "",
        )
        return wish, names

    async def _deliver(self, progress: Progress, key: Key, wish: Wish) -> Outcome:
        for _ in range(MAX_STEPS):
            stored, bound = await self._read(wish.grant, wish.namespace, wish.secret)
            now = self._timing.clock.reading()
            uid, renewal = self._fresh.get(key, ("", 0.0))
            fresh = uid if asyncio.get_running_loop().time() < renewal else ""
            match delivery_step(wish, stored, bound, now, fresh=fresh):
                case Refused() as refused:
                    return _refusal(refused)
                case Rest(seconds, token):
                    self._expires.pop(key, None)
                    if token is not None:
                        self._expires[key] = datetime.fromtimestamp(token.expires, UTC)
                    self._queue.add_after(key, min(seconds, LOOKED_AT) if seconds > 0 else LOOKED_AT)
                    return GRANTED
                case Drop(secret):
                    await self._delete(wish.namespace, secret)
                case Rewrite(secret, token):
                    await self._write(wish, secret, token.value)
                case Issue(slot, lifetime):
                    await self._remember(progress, key, wish.secret)
                    token = await self._issue(wish, slot, lifetime, stored, now)
                    self._fresh[key] = token.secret_uid, asyncio.get_running_loop().time() + token.renewal - token.issued
        raise ApiError(0, "Conflict", "somebody else keeps changing the Secrets of this kubeconfig")

    async def _remember(self, progress: Progress, key: Key, name: str) -> None:
        """Have the ServiceAccount say that there may be a Secret of this name, before there is one."""
        self._names.setdefault(key, set()).add(name)
        account = self._world.account(key.namespace, key.account)
        if account is None or name in (known := _kubeconfigs(account)):
            return
        await self._note_names(progress, account, (*known, name))

    async def _note_names(self, progress: Progress, account: Child, names: Iterable[str]) -> None:
        automount = account.content.automount if isinstance(account.content, AccountContent) else None
        content = AccountContent(automount, tuple(sorted(names)))
        await self._executor.write(Patch(account, content, None), progress.grant.id)
        noted = self._world.account(account.namespace, account.name)
        if noted is None or _kubeconfigs(noted) != content.kubeconfigs:
            raise ApiError(0, "Conflict", f"ServiceAccount {account.namespace}/{account.name} was changed meanwhile")

    async def _read(self, grant: GrantId, namespace: str, name: str) -> tuple[Secret | None, list[Secret | None]]:
        async def read(each: str) -> Secret | None:
            try:
                return read_secret(await self._api.get(SECRETS.path(namespace, each)), grant)
            except ApiError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None
                raise

        stored, *bound = await asyncio.gather(*map(read, (name, *slots(name))))
        return stored, bound

    async def _issue(self, wish: Wish, slot: str, lifetime: float, stored: Secret | None, now: Reading) -> Token:
        """A death on the way leaves a Secret that no kubeconfig names, which goes before the next is made."""
        made = await self._api.create(SECRETS.path(wish.namespace), wish.slot_body(slot, lifetime, now.current))
        uid: str = made["metadata"]["uid"]
        bound = {"kind": "Secret", "apiVersion": "v1", "name": slot, "uid": uid}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(lifetime), "boundObjectRef": bound},
        }
        answer = await self._api.create(f"{SERVICE_ACCOUNTS.path(wish.namespace, wish.account)}/token", request)
        token = parse_token(answer["status"]["token"])
        if token is None or (token.secret_uid, token.account_uid) != (uid, wish.account_uid):
            await self._api.delete(SECRETS.path(wish.namespace, slot), uid=uid)
            raise ApiError(0, "Conflict", f"ServiceAccount {wish.namespace}/{wish.account} is another one by now")
        expires = in_words(datetime.fromtimestamp(token.expires, UTC))
        if abs(token.expires - now.current - lifetime) > SLACK:  # the API server has given less, or more
            marks = {"uid": uid, "annotations": {EXPIRES: expires}}
            await self._api.patch(SECRETS.path(wish.namespace, slot), {"metadata": marks})
        await self._write(wish, stored, token.value)
        log.info(
            "%s: a token for ServiceAccount %s/%s, valid until %s, is in Secret %s and bound to %s",
            wish.grant.name,
            wish.namespace,
            wish.account,
            expires,
            wish.secret,
            slot,
        )
        return token

    async def _write(self, wish: Wish, stored: Secret | None, token: str) -> None:
        if stored is None:
            await self._api.create(SECRETS.path(wish.namespace), wish.body(token))
            return
        guard = {"metadata": {"uid": stored.uid, "resourceVersion": str(stored.version)}}
        await self._api.patch(SECRETS.path(wish.namespace, stored.name), guard | wish.data(token))

    async def _remove(self, progress: Progress, key: Key, names: Sequence[str]) -> None:
        """Delete the Secrets of kubeconfigs that are not wanted any more, and have the ServiceAccount forget their names.

        Each by itself: a name that somebody else has written there must not save the others. What another ServiceAccount of the
        grant wants is its own business.
        """
        grant = progress.grant
        others = {
            listed.kubeconfig.secret_name
            for (namespace, name), listed in grant.accounts.items()
            if namespace == key.namespace and name != key.account and listed.kubeconfig is not None
        }
        gone, errors = set[str](), list[ApiError]()
        for name in names:
            try:
                if name not in others:
                    await self._remove_one(grant.id, key.namespace, name)
                gone.add(name)
            except ApiError as error:
                errors.append(error)
        account = self._world.account(key.namespace, key.account)
        if account is not None and gone & {*(known := _kubeconfigs(account))}:
            await self._note_names(progress, account, (name for name in known if name not in gone))
        self._names[key] = self._names.get(key, set()) - gone
        if errors:
            raise errors[0]

    async def _remove_one(self, grant: GrantId, namespace: str, name: str) -> None:
        for _ in range(MAX_STEPS):
            stored, bound = await self._read(grant, namespace, name)
            if (step := removal_step(stored, bound)) is None:
                return
            await self._delete(namespace, step.secret)
        raise ApiError(0, "Conflict", f"Secret {namespace}/{name}, or one beside it, is still there after it was deleted")

    async def _delete(self, namespace: str, secret: Secret) -> None:
        path = SECRETS.path(namespace, secret.name)
        try:
            if secret.finalizers:  # none of ours has any, and tokens live for as long as something holds it
                await self._api.patch(path, {"metadata": {"uid": secret.uid, "finalizers": None}})
            if not (secret.held and secret.finalizers):
                await self._api.delete(path, uid=secret.uid)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):  # gone, or another by now: it is read again
                raise


def _kubeconfigs(account: Child) -> Sequence[str]:
    return account.content.kubeconfigs if isinstance(account.content, AccountContent) else ()


def _context_namespace(grant: Grant, key: Key) -> str:
    """The default namespace of a kubeconfig: the first that is listed and not excluded, else the ServiceAccount's own."""
    listed = grant.spec.namespaces or () if isinstance(grant.spec, Spec) else ()
    excluded = globs(grant.limits.exclude_namespaces)
    return next((name for name in listed if name not in excluded), key.namespace)


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


def _server_unknown(key: Key) -> str:
    return (
        f"ServiceAccount {key.namespace}/{key.account}: nobody has told the address of the API server that its kubeconfig is to "
        f"have: set kubeconfig.server, or the operator's option --kubeconfig-server"
    )


def _failed(grant: GrantId, key: Key, error: Exception, *, revoking: bool) -> Outcome:
    what = f"the kubeconfig of ServiceAccount {key.namespace}/{key.account}"
    forbidden = isinstance(error, ApiError) and error.status == HTTPStatus.FORBIDDEN
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
