"""The Secrets of kubeconfigs, read and written by name: of all there are, the operator may see only those that it makes."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime
from http import HTTPStatus

from vmaccess.cluster.api import SECRETS, SERVICE_ACCOUNTS, Api, ApiError
from vmaccess.policy.children import GrantId
from vmaccess.policy.credentials import ACCOUNT, EXPIRES, new_id
from vmaccess.policy.delivery import SLACK, Drop, Wish
from vmaccess.policy.kept import Secret, Token, parse_token, read_secret, slots
from vmaccess.policy.times import Reading, in_words

log = logging.getLogger(__name__)

# What kube-apiserver says where a right is missing (apiserver's responsewriters, forbiddenMessage); a quota or a webhook that
# refuses something has the same code and says something else.
NO_RIGHT = re.compile(r'User ".*" cannot \S+ resource ')


def lacks_right(error: Exception) -> bool:
    """Whether it was RBAC that refused."""
    return isinstance(error, ApiError) and error.status == HTTPStatus.FORBIDDEN and NO_RIGHT.search(error.message) is not None


class Secrets:
    """What the operator does with them. Everything raises ApiError."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, grant: GrantId, namespace: str, name: str) -> tuple[Secret | None, list[Secret | None]]:
        """The Secret of this name with a kubeconfig, and the two that its tokens are bound to."""

        async def read(each: str) -> Secret | None:
            try:
                return read_secret(await self._api.get(SECRETS.path(namespace, each)), grant)
            except ApiError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None
                raise

        stored, *bound = await asyncio.gather(*map(read, (name, *slots(name))))
        return stored, bound

    async def issue(self, wish: Wish, slot: str, lifetime: float, stored: Secret | None, now: Reading) -> Token:
        """Make a Secret, have a token bound to it, and put that into the kubeconfig.

        A death on the way leaves a Secret that no kubeconfig names, which goes before the next is made.
        """
        made = await self._api.create(SECRETS.path(wish.namespace), wish.slot_body(slot, new_id(), lifetime, now.current))
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
        await self.write(wish, stored, token.value)
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

    async def write(self, wish: Wish, stored: Secret | None, token: str) -> None:
        """Have the kubeconfig hold this token."""
        if stored is None:
            await self._api.create(SECRETS.path(wish.namespace), wish.body(token))
            return
        guard = {"uid": stored.uid, "resourceVersion": str(stored.version), "annotations": {ACCOUNT: wish.account}}
        await self._api.patch(SECRETS.path(wish.namespace, stored.name), {"metadata": guard} | wish.data(token))

    async def delete(self, namespace: str, step: Drop) -> None:
        """Delete a Secret, or what holds it when it is deleted already; unless it is gone or another by now.

        Either is one step, after which it is read again. In this order: what is deleted gets no finalizers any more, and its
        tokens die within a minute whatever holds it.
        """
        secret, path = step.secret, SECRETS.path(namespace, step.secret.name)
        try:
            if not secret.held:
                await self._api.delete(path, uid=secret.uid, version=secret.version if step.unchanged else None)
            elif secret.finalizers:
                await self._api.patch(path, {"metadata": {"uid": secret.uid, "finalizers": None}})
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
