"""Carries out one write and feeds the answer back into the mirrors, so that the next decision sees it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from vmaccess.cluster.api import Api, ApiError, Json, Resource
from vmaccess.cluster.mirror import Mirror
from vmaccess.policy.children import (
    GRANT_LABEL,
    UID_LABEL,
    Child,
    Kind,
    OwnerId,
    PresetId,
    RoleContent,
    body,
    fields,
    noted,
)
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Create, Delete, Patch, Write

MAX_STEPS = 12  # writes in one go before what keeps changing under us goes to the end of the queue
PATIENCE = 3  # writes that may fail because somebody else was faster, before ours no longer minds
DESPERATE = 4  # failures, some four seconds, after which the next best is done to take away what should be gone

log = logging.getLogger(__name__)

# The two ways kube-apiserver words a refused escalation (pkg/registry/rbac: role and rolebinding policybased storage).
ESCALATION_MARKS = ("attempting to grant RBAC permissions not currently held", "attempting to grant extra privileges")


class WriteFailed(Exception):
    """A write that did not happen, as far as is known.

    `status` is the HTTP code, 0 where there was none; `retry_after` the server's wish in seconds, 0 where it has none; `final`
    says that trying again has little hope, `answered` that the API server itself said no: else the write may still happen.
    """

    def __init__(
        self, reason: Reason, message: str, status: int, *, retry_after: float = 0.0, final: bool = False, answered: bool = True
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.status = reason, message, status
        self.retry_after, self.final, self.answered = retry_after, final, answered


class Executor:
    """Writes children. Every write is guarded: it changes the object that was decided on, or nothing."""

    def __init__(self, api: Api, mirrors: Mapping[Kind, Mirror[Child]]) -> None:
        self._api, self._mirrors = api, mirrors

    async def write(self, step: Write, owner: OwnerId, *, insist: bool = False, desperate: bool = False) -> None:
        """Carry out `step` for `owner`, or find that the object is not (or no longer) what was decided on and read it anew.

        With `insist`, a Patch of an object that is still its owner's no longer minds other changes to it in between: whoever
        keeps changing it could put off a revocation for ever. `desperate` is for what has failed too often to be waited for: any
        failure then counts as refused for good.

        In both cases the mirrors are as new as the API server, and the caller decides again. Raises WriteFailed where the
        API server refused or did not answer; a refused write has then been replaced by what it gave as `instead`.
        """
        try:
            await self._send(step, owner, insist=insist, desperate=desperate)
        except ApiError as error:
            final = desperate or _for_good(error)
            if not isinstance(step, Delete) and step.instead is not None and final:
                log.warning("%s failed, doing the next best: %s", _describe(step), error)
                try:
                    await self.write(step.instead, owner, desperate=desperate)
                except WriteFailed as worse:
                    worse.answered = worse.answered and _is_answered(error)
                    raise
            message = f"{_describe(step)}: {_message(error)}"
            raise WriteFailed(
                _reason(error),
                message,
                error.status,
                retry_after=error.retry_after,
                final=final,
                answered=_is_answered(error),
            ) from error

    async def _send(self, step: Write, owner: OwnerId, *, insist: bool, desperate: bool) -> None:
        match step:
            case Create(kind=kind, namespace=namespace, name=name, content=content):
                await self._create(kind, namespace, name, body(kind, owner, namespace, name, content))
            case Patch(child):
                await self._patch(child, _changes(step, insist=insist and _has_an_owner(child)), desperate=desperate)
            case Delete(child, unchanged):
                await self._delete(child, child.version if unchanged else None, desperate=desperate)

    async def _create(self, kind: Kind, namespace: str, name: str, whole: Json) -> None:
        mirror = self._mirrors[kind]
        try:
            mirror.observe(await self._api.create(mirror.resource.path(namespace), whole))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            await self._refresh(mirror, namespace, name)

    async def _patch(self, child: Child, changes: Json, *, desperate: bool) -> None:
        mirror = self._mirrors[child.kind]
        try:
            answer = await self._api.patch(mirror.resource.path(child.namespace, child.name), changes)
        except ApiError as error:
            await self._look_again(mirror, child, error, desperate=desperate)
        else:
            if _is_last_state(answer):
                mirror.forget((child.namespace, child.name), child.uid)
            else:
                mirror.observe(answer)

    async def _delete(self, child: Child, version: int | None, *, desperate: bool) -> None:
        mirror = self._mirrors[child.kind]
        try:
            answer = await self._api.delete(mirror.resource.path(child.namespace, child.name), uid=child.uid, version=version)
        except ApiError as error:
            await self._look_again(mirror, child, error, desperate=desperate)
        else:
            if answer.get("kind") == "Status" or not answer["metadata"].get("finalizers"):
                mirror.forget((child.namespace, child.name), child.uid)
            else:
                mirror.observe(answer)

    async def _look_again(self, mirror: Mirror[Child], child: Child, error: ApiError, *, desperate: bool) -> None:
        """See whether a refused write was overtaken; raises `error` where the object is what was decided on.

        A webhook may refuse with 409 as well, and then it is no use to decide again.
        """
        if _is_gone(error, mirror.resource):
            mirror.forget((child.namespace, child.name), child.uid)
            return
        if error.status != HTTPStatus.CONFLICT:
            raise error
        await self._refresh(mirror, child.namespace, child.name)
        held = mirror.get((child.namespace, child.name))
        if held is not None and held.uid == child.uid and (desperate or held.version == child.version):
            raise error

    async def _refresh(self, mirror: Mirror[Child], namespace: str, name: str) -> None:
        """Read one object whose state is in doubt."""
        held = mirror.get((namespace, name))
        try:
            mirror.observe(await self._api.get(mirror.resource.path(namespace, name)))
        except ApiError as error:
            if not _is_gone(error, mirror.resource):
                raise
            if held is not None:
                mirror.forget((namespace, name), held.uid)


def _changes(step: Patch, *, insist: bool) -> Json:
    """The merge patch: null removes a field, a list replaces the whole list."""
    metadata: dict[str, Any] = {"uid": step.child.uid}
    if not insist:
        metadata["resourceVersion"] = str(step.child.version)
    if step.child.finalizers:
        metadata["finalizers"] = None
    if step.marks is not None:
        foreign = (GRANT_LABEL, UID_LABEL) if isinstance(step.marks, PresetId) else ()
        metadata["labels"] = step.marks.labels() | dict.fromkeys((*step.child.aggregates, *foreign))
        metadata["ownerReferences"] = step.marks.owner_references()
    if step.content is not None and (notes := noted(step.content)):
        metadata["annotations"] = notes
    content = fields(step.content) if step.content is not None else {}
    if isinstance(step.content, RoleContent) and step.child.kind is Kind.CLUSTER_ROLE:
        content["aggregationRule"] = None  # by it Kubernetes would replace the rules
    return {"metadata": metadata, **content}


def _has_an_owner(child: Child) -> bool:
    return child.marked_owner is not None or child.marked_preset is not None


def _is_gone(error: ApiError, resource: Resource) -> bool:
    """Whether the API server says that the object is not there. Not every 404 does: a webhook may deny with one, a proxy may
    know no such path, and of a RoleBinding it may be the role that was not found.
    """
    return error.status == HTTPStatus.NOT_FOUND and error.message.startswith(resource.plural)


def _is_last_state(answer: Json) -> bool:
    """Whether a patch was the last thing that held an object waiting to be deleted."""
    metadata = answer["metadata"]
    return "deletionTimestamp" in metadata and not metadata.get("finalizers")


def _for_good(error: ApiError) -> bool:
    """Whether trying again has little hope: a webhook that denies may answer with any 4xx, and does with 400 if it names none.

    What takes away is not to hang twice either: after a time-out the next best is tried.
    """
    passing = (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
    )
    return error.reason == "Timeout" or (400 <= error.status < 500 and error.status not in passing)


def _is_answered(error: ApiError) -> bool:
    """Whether the API server itself has decided against the write: not without an answer, nor with a proxy's, nor where etcd
    did not answer the API server.
    """
    if error.status in (0, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT) or "etcdserver" in error.message:
        return False
    return error.status != HTTPStatus.SERVICE_UNAVAILABLE or error.reason == "ServiceUnavailable"


def _reason(error: ApiError) -> Reason:
    if any(mark in error.message for mark in ESCALATION_MARKS):
        return Reason.ESCALATION
    # a binding to a ClusterRole that has just gone is answered with 404 as well
    missing = error.status == HTTPStatus.NOT_FOUND and error.message.startswith("namespaces ")
    if missing or "NamespaceTerminating" in error.causes:
        return Reason.NAMESPACE_NOT_FOUND
    return Reason.API_ERROR


def _message(error: ApiError) -> str:
    if error.reason in ("Timeout", "Unreachable"):
        return f"the API server did not answer ({error.message}); it is tried again"
    return error.message


def _describe(step: Write) -> str:
    match step:
        case Create(kind=kind, name=name):
            return f"creating {kind} {name!r}"
        case Patch(child):
            return f"changing {child.kind} {child.name!r}"
        case Delete(child):
            return f"deleting {child.kind} {child.name!r}"
