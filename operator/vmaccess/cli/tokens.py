"""Makes credentials: a Secret by which each can be taken back alone, and tokens that are bound to it.

Everything is done with the caller's rights, and a token is never stored in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from vmaccess.cli.connection import Connection, Refused
from vmaccess.cli.failed import Failed
from vmaccess.cli.grants import Account
from vmaccess.policy.children import PLURAL, GrantId
from vmaccess.policy.credentials import EXPIRES, NAME_PREFIX, Route, credential_body, new_id
from vmaccess.policy.times import in_words

Json = dict[str, Any]

REVIEWS = "authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Revocable:
    """A credential with a Secret of its own. `uid` is the Secret's, None where it is not known."""

    id: str
    uid: str | None = None

    @property
    def secret(self) -> str:
        """Name of its Secret, in the namespace of the ServiceAccount."""
        return NAME_PREFIX + self.id


@dataclass(frozen=True, slots=True)
class Unbound:
    """No Secret could be made: the tokens end with the grant, or by themselves. `why` is the API server's sentence."""

    why: str


Credential = Revocable | Unbound


@dataclass(frozen=True, slots=True)
class Token:
    """A token and until when the API server really takes it, which may be less than what was asked for."""

    value: str = field(repr=False)
    created: datetime
    expires: datetime

    @property
    def lifetime(self) -> timedelta:
        """For how long it is valid in all."""
        return self.expires - self.created


@contextmanager
def new_credential(
    api: Connection, grant: GrantId, account: Account, route: Route, expires: datetime | None
) -> Iterator[Credential]:
    """A new credential, for the length of a `with` block in which it is handed over: where that fails, it is gone again."""
    credential = _make_secret(api, grant, account, route, expires)
    try:
        yield credential
    except BaseException as error:  # also when the person gives up
        if isinstance(credential, Revocable) and credential.uid is not None:
            try:
                api.delete(secret_path(account.namespace, credential.secret), credential.uid)
            except Failed as left:
                error.add_note(f"note: Secret {account.namespace}/{credential.secret} is left and of no use, delete it: {left}")
        raise


def request_token(api: Connection, account: Account, credential: Credential, lifetime: timedelta) -> Token:
    """A token, bound to the Secret of its credential where there is one; raises Failed in words."""
    spec: Json = {"expirationSeconds": int(lifetime.total_seconds())}
    if isinstance(credential, Revocable):
        reference = {"apiVersion": "v1", "kind": "Secret", "name": credential.secret}
        spec["boundObjectRef"] = reference | ({"uid": credential.uid} if credential.uid else {})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    try:
        answer = api.create(f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token", request)
    except Refused as refused:
        raise _in_other_words(refused, account, credential) from refused
    status = answer["status"]
    created = answer["metadata"].get("creationTimestamp")
    return Token(
        status["token"],
        datetime.fromisoformat(created) if created else api.now,
        datetime.fromisoformat(status["expirationTimestamp"]),
    )


def correct_expiry(api: Connection, account: Account, credential: Revocable, expires: datetime) -> None:
    """Write down when the credential really ends; raises Refused."""
    change = {"metadata": {"uid": credential.uid, "annotations": {EXPIRES: in_words(expires)}}}
    api.patch(secret_path(account.namespace, credential.secret), change)


def secret_path(namespace: str, name: str) -> str:
    """URL path of a Secret."""
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"


def _make_secret(api: Connection, grant: GrantId, account: Account, route: Route, expires: datetime | None) -> Credential:
    credential = Revocable(new_id())
    issued, until = in_words(api.now), in_words(expires) if expires is not None else ""
    body = credential_body(grant, credential.secret, credential.id, account.name, route, issued, until)
    try:
        made = api.create(f"/api/v1/namespaces/{account.namespace}/secrets", body)
    except Refused as refused:
        if refused.status == 403 and _lacks_the_right(api, account.namespace):
            return Unbound(refused.message)
        raise  # a quota or a webhook, say: a credential that is revoked by itself can be had, later
    return replace(credential, uid=made["metadata"]["uid"])


def _lacks_the_right(api: Connection, namespace: str) -> bool:
    """Whether the API server says that the caller may not create Secrets, whatever else may be in the way."""
    attributes = {"namespace": namespace, "verb": "create", "resource": "secrets"}
    review = {"apiVersion": REVIEWS, "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
    try:
        return api.create(f"/apis/{REVIEWS}/selfsubjectaccessreviews", review)["status"]["allowed"] is False
    except Refused:
        return False


def _in_other_words(refused: Refused, account: Account, credential: Credential) -> Failed:
    if refused.status == 403:
        return Failed(
            f"you may not create tokens of ServiceAccount {account}: {refused.message}; ask for a Role in namespace "
            f"{account.namespace!r} that allows create on serviceaccounts/token for the name {account.name!r}"
        )
    if refused.status == 404 and isinstance(credential, Revocable) and credential.secret in refused.message:
        return Failed(
            f"credential {credential.id} of ServiceAccount {account} has been revoked: there is no Secret {credential.secret!r} "
            f"in namespace {account.namespace!r}; `kubectl vmaccess kubeconfig` makes another credential"
        )
    if refused.status == 404:
        return Failed(f"ServiceAccount {account} has just gone: look at `kubectl get {PLURAL}`")
    return refused
