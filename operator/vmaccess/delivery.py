"""Keeps a kubeconfig for a ServiceAccount in a Secret, for those grants that ask for one, in namespaces where it may.

Secrets are read by name and never listed: of all the Secrets there are, the operator may see only those it makes. So nothing
tells when one of them is changed, and each is looked at again every few minutes.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from vmaccess.cluster.api import SECRETS, SERVICE_ACCOUNTS, Api, ApiError
from vmaccess.cluster.executor import MAX_STEPS, Executor, WriteFailed
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.keys import Key, Part
from vmaccess.model.spec import DEFAULT_LIFETIME, Spec
from vmaccess.policy.children import AccountContent, Child, GrantId, Whose
from vmaccess.policy.credentials import EXPIRES
from vmaccess.policy.decide import GRANTED, PENDING, REVOKING
from vmaccess.policy.delivery import (
    Drop,
    Issue,
    Rest,
    Rewrite,
    Secret,
    Wish,
    delivery_step,
    parse_token,
    read_secret,
    removal_step,
    slots,
)
from vmaccess.policy.grant import Give, Grant, Take
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.namespaces import Globs, globs
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Outcome, ScopedName, State
from vmaccess.policy.steps import Patch, Refused, Wait
from vmaccess.policy.times import in_words
from vmaccess.progress import Progress
from vmaccess.timing import Timing

log = logging.getLogger(__name__)

LOOKED_AT = 300.0  # seconds after which the Secrets are read again: nothing tells that somebody has changed them
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
        self._expires: dict[Key, datetime] = {}

    def tokens(self, progress: Progress) -> dict[ScopedName, datetime]:
        """When the tokens in the kubeconfigs of a grant expire, as far as it is known, by ServiceAccount."""
        keys = (Key(Part.KUBECONFIG, progress.grant.id.name, *account) for account in progress.kubeconfigs)
        return {(key.namespace, key.account): self._expires[key] for key in keys if key in self._expires}

    def forget(self, grant: str) -> None:
        """The grant is gone."""
        for known in (self._settled, self._tried, self._expires):
            for key in [key for key in known if key.grant == grant]:
                del known[key]

    def plan(self, progress: Progress, key: Key) -> None:
        """Have the kubeconfig looked at, unless it is as it should be, or nothing is to be touched."""
        goal, names = self._goal(progress, key)
        if isinstance(goal, Refused | Wait) or self._settled.get(key) == (goal, names):
            progress.note(key, _outcome(goal))
            return
        if goal is None and not names:
            progress.note(key, None)
            return
        known = progress.outcome(key)
        failing = known is not None and known.reason is not None
        if not failing:
            progress.note(key, PENDING if goal is not None else REVOKING)
        if not (failing and self._queue.failures(key) and self._tried.get(key) == (goal, names)):  # else its back-off goes on
            self._queue.add(key, urgent=goal is None)

    def comes_first(self, progress: Progress, account: Child) -> bool:
        """Whether a ServiceAccount that is to go has to wait for its kubeconfig's Secrets; not for what cannot be removed."""
        if not _kubeconfigs(account) or account.whose(progress.grant.id) is not Whose.OURS:
            return False
        outcome = progress.kubeconfigs.get((account.namespace, account.name))
        return outcome is not None and outcome.reason is None

    async def look_at(self, progress: Progress, key: Key) -> None:
        """Bring the kubeconfig to where it should be. Raises ApiError or WriteFailed, after that has been noted."""
        goal, names = self._tried[key] = self._goal(progress, key)
        try:
            outcome = await self._deliver(key, goal) if isinstance(goal, Wish) else _outcome(goal)
            if goal is None or outcome == GRANTED:
                kept = goal.secret if isinstance(goal, Wish) else ""
                await self._remove(progress, key, [name for name in names if name != kept])
        except (ApiError, WriteFailed) as error:
            progress.note(key, _failed(progress.grant.id, key, error, revoking=goal is None))
            raise
        progress.note(key, outcome)
        if outcome is not None and outcome.reason is not None:
            self._queue.retry(key)
            return
        if outcome is None or outcome == GRANTED:
            self._settled[key] = self._goal(progress, key)
        self._queue.forget(key)

    def _goal(self, progress: Progress, key: Key) -> tuple[Goal, Sequence[str]]:
        """What is wanted, and the names of the Secrets that hold a kubeconfig or may do so."""
        grant, account = self._world.grant(key.grant), self._world.account(key.namespace, key.account)
        if grant is None or account is None or account.whose(grant.id) is not Whose.OURS:
            return None, ()
        names = _kubeconfigs(account)
        if not isinstance(progress.intent, Give | Take):
            return Wait("nothing is given and nothing is taken") if names else None, ()
        listed = grant.accounts.get((key.namespace, key.account))
        wanted = listed.kubeconfig if listed is not None else None
        if wanted is None or isinstance(progress.intent, Take) or key.namespace in self._protected:
            return None, names
        if wanted.secret_name not in names:
            return Wait("the ServiceAccount is to say so first"), names
        if (server := wanted.server or self._offer.server) is None:
            return Refused(Reason.SERVER_UNKNOWN, _server_unknown(key)), names
        wish = Wish(
            grant=grant.id,
            namespace=key.namespace,
            account=key.account,
            account_uid=account.uid,
            secret=wanted.secret_name,
            lifetime=wanted.token_lifetime_seconds or DEFAULT_LIFETIME,
            ends=grant.limits.ends.timestamp() if grant.limits.ends is not None else math.inf,
            cluster=self._offer.entry(server),
            context_namespace=_context_namespace(grant, key),
            rotation=grant.rotation,
        )
        return wish, names

    async def _deliver(self, key: Key, wish: Wish) -> Outcome:
        for _ in range(MAX_STEPS):
            stored, bound = await self._read(wish.grant, wish.namespace, wish.secret)
            now = self._timing.clock.reading().latest
            match delivery_step(wish, stored, bound, now):
                case Refused() as refused:
                    return _refusal(refused)
                case Rest(until, token):
                    self._expires.pop(key, None)
                    if token is not None:
                        self._expires[key] = datetime.fromtimestamp(token.expires, UTC)
                    self._queue.add_after(key, min(max(until - now, 0.0), LOOKED_AT))
                    return GRANTED
                case Drop(secret):
                    await self._delete(wish.namespace, secret)
                case Rewrite(secret, token):
                    await self._write(wish, secret, token.value)
                case Issue(slot, lifetime):
                    await self._issue(wish, slot, lifetime, stored, now)
        raise ApiError(0, "Conflict", "somebody else keeps changing the Secrets of this kubeconfig")

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

    async def _issue(self, wish: Wish, slot: str, lifetime: float, stored: Secret | None, now: float) -> None:
        """A death on the way leaves a Secret that no kubeconfig names, which goes before the next is made."""
        made = await self._api.create(SECRETS.path(wish.namespace), wish.slot_body(slot, lifetime, now))
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
        if made["metadata"]["annotations"].get(EXPIRES) != expires:
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

    async def _write(self, wish: Wish, stored: Secret | None, token: str) -> None:
        if stored is None:
            await self._api.create(SECRETS.path(wish.namespace), wish.body(token))
            return
        guard = {"metadata": {"uid": stored.uid, "resourceVersion": str(stored.version)}}
        await self._api.patch(SECRETS.path(wish.namespace, stored.name), guard | wish.data(token))

    async def _remove(self, progress: Progress, key: Key, names: Sequence[str]) -> None:
        """Delete the Secrets of kubeconfigs that are not wanted any more, and have the ServiceAccount forget their names."""
        for name in names:
            stored, bound = await self._read(progress.grant.id, key.namespace, name)
            for _ in range(MAX_STEPS):
                if (step := removal_step(stored, bound)) is None:
                    break
                await self._delete(key.namespace, step.secret)
                stored, bound = await self._read(progress.grant.id, key.namespace, name)
        account = self._world.account(key.namespace, key.account)
        if not names or account is None or not isinstance(account.content, AccountContent):
            return
        left = tuple(name for name in account.content.kubeconfigs if name not in names)
        await self._executor.write(Patch(account, AccountContent(account.content.automount, left), None), progress.grant.id)

    async def _delete(self, namespace: str, secret: Secret) -> None:
        try:
            await self._api.delete(SECRETS.path(namespace, secret.name), uid=secret.uid)
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


def _failed(grant: GrantId, key: Key, error: ApiError | WriteFailed, *, revoking: bool) -> Outcome:
    what = f"the kubeconfig of ServiceAccount {key.namespace}/{key.account}"
    if revoking:
        return Outcome(State.REVOKING, Reason.REVOCATION_FAILED, f"{what} cannot be taken back: {error}")
    if error.status == HTTPStatus.FORBIDDEN:
        return Outcome(
            State.FAILED,
            Reason.KUBECONFIG_FORBIDDEN,
            f"{what}: the operator may not see to Secrets and tokens in namespace {key.namespace!r}; to allow it for this one: "
            f"kubectl vmaccess rights {grant.name} | kubectl apply -f -",
            final=True,
        )
    return Outcome(State.FAILED, Reason.API_ERROR, f"{what}: {error}")
