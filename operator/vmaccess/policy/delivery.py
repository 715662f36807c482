"""The next request for the kubeconfig of one ServiceAccount that the operator keeps in a Secret.

There are three Secrets: the one that is asked for, with the kubeconfig, and beside it two, in turn, that its tokens are bound to.
What is there says all: a token names the Secret that it is bound to, so that after a death between any two requests the next
process finds which of the two is in use, and that the other is not.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vmaccess.model.spec import MIN_LIFETIME
from vmaccess.policy.children import ROTATE, GrantId
from vmaccess.policy.credentials import ACCOUNT, Route, credential_body
from vmaccess.policy.kept import KEY, LIFETIME, Secret, Token, read_token, slots
from vmaccess.policy.kubeconfig import ClusterEntry, dump, kubeconfig
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Refused
from vmaccess.policy.times import Reading, in_words

RENEWED_AT = 0.8  # of a token's life
SLACK = 5.0  # seconds that do not matter
OVERLAP = 120.0  # seconds for which a token that lives too long stays beside the next: a kubelet tells of that within some 90


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted for one ServiceAccount. `ends` is when the grant does, in seconds since 1970; `rotation` is any text: with
    another one another token is wanted.
    """

    grant: GrantId
    namespace: str
    account: str
    account_uid: str
    secret: str
    lifetime: float
    ends: float
    cluster: ClusterEntry
    context_namespace: str
    rotation: str

    def text(self, token: str) -> str:
        """The kubeconfig with this token."""
        user = f"{self.namespace}/{self.account}"
        whole = kubeconfig(self.cluster, self.grant.name, user, {"token": token}, self.context_namespace)
        return dump(whole)

    def slot_body(self, name: str, credential: str, lifetime: float, now: float) -> dict[str, Any]:
        """The Secret that the next token is to be bound to; `credential` is its id, which no other had before."""
        issued, expires = (in_words(datetime.fromtimestamp(time, UTC)) for time in (now, now + lifetime))
        body = credential_body(self.grant, name, credential, self.account, Route.OPERATOR, issued, expires)
        body["metadata"]["annotations"] |= {LIFETIME: str(int(lifetime)), ROTATE: self.rotation}
        return body

    def body(self, token: str) -> dict[str, Any]:
        """The Secret with the kubeconfig."""
        body = credential_body(self.grant, self.secret, "", self.account, Route.OPERATOR, "", "")
        return body | {
            "metadata": body["metadata"] | {"labels": self.grant.labels(), "annotations": {ACCOUNT: self.account}},
            "type": "Opaque",
            **self.data(token),
        }

    def data(self, token: str) -> dict[str, Any]:
        """The part of it that changes."""
        return {"data": {KEY: base64.b64encode(self.text(token).encode()).decode()}}


@dataclass(frozen=True, slots=True)
class Issue:
    """Make a Secret of this name, ask for a token that is bound to it, and put it into the kubeconfig."""

    slot: str
    lifetime: float


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The token may stay, and what is around it is not as it should be."""

    stored: Secret
    token: Token


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete a Secret, and with it the tokens that are bound to it; `unchanged` where another ServiceAccount may take it over."""

    secret: Secret
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do for so many seconds; the token is the one in use."""

    seconds: float
    token: Token


Step = Issue | Rewrite | Drop | Rest | Refused


def delivery_step(wish: Wish, stored: Secret | None, bound: Sequence[Secret | None], now: Reading, *, fresh: str = "") -> Step:
    """The next step, given the Secret with the kubeconfig and the two (of `slots`, in their order), None where there is none.

    By the latest time for the end of the grant, and by the present one for the age of a token, which is of the same clock. API
    servers may disagree: what is bound to the uid `fresh` is known to be young, whatever they say.
    """
    for each in (stored, *bound):
        if each is not None and not each.ours:
            return unwanted_step(wish.rotation, bound) or Refused(
                Reason.NAME_CONFLICT,
                f"Secret {wish.namespace}/{each.name} exists and is not this grant's: it is not touched; choose another "
                f"kubeconfig.secretName, or delete it",
            )
    if stored is not None and stored.held:
        return Drop(stored)
    token = read_token(stored.text) if stored is not None else None
    in_use = [slot for slot in bound if slot is not None and token is not None and slot.uid == token.secret_uid and not slot.held]
    current = in_use[0] if in_use else None
    others = [slot for slot in bound if slot is not None and slot is not current]
    if over := [slot for slot in others if slot.held or not _is_wanted(wish.account, wish.rotation, slot)]:
        return Drop(over[0])
    if stored is not None and token is not None and current is not None and not _is_due(wish, token, current, now, fresh):
        if stored.text != wish.text(token.value):
            return Drop(stored) if stored.locked else Rewrite(stored, token)
        leaving = [(_leaves(wish, token, slot), slot) for slot in others]
        if over := [slot for time, slot in leaving if time <= now.current]:
            return Drop(over[0])
        waits = (_due_in(wish, token, now), *(time - now.current for time, _ in leaving), wish.ends - now.latest)
        return Rest(min(waits), token)
    if (left := wish.ends - now.latest) < MIN_LIFETIME:  # no token so short can be had, and the end takes away all of it
        if current is None or token is None:
            return _too_late(wish)
        if not _is_of(wish, token, current):
            return Drop(current)
        if (lasts := token.expires - now.current) <= 0 and wish.ends - token.expires > SLACK + 1:
            return _too_late(wish)
        return Rest(min(left, lasts) if lasts > 0 else left, token)
    if others:
        return Drop(others[0])  # older than the one in use, or never used
    if stored is not None and stored.locked:
        return Drop(stored)
    free = next(name for name in slots(wish.secret) if current is None or name != current.name)
    return Issue(free, min(wish.lifetime, left))


def renewal(wish: Wish, token: Token) -> float:
    """When a token is to be replaced: after four fifths of its life, or sooner where none could be had then any more that lasts
    until the end of the grant.
    """
    usual = _usual_renewal(token)
    return min(usual, _last_renewal(wish)) if _gains(wish, token) else usual


def _due_in(wish: Wish, token: Token, now: Reading) -> float:
    """Seconds until then. What is left of the grant goes by the latest time, by which it is decided whether one can be had."""
    usual = _usual_renewal(token) - now.current
    return min(usual, _last_renewal(wish) - now.latest) if _gains(wish, token) else usual


def _usual_renewal(token: Token) -> float:
    return token.issued + RENEWED_AT * (token.expires - token.issued)


def _last_renewal(wish: Wish) -> float:
    return wish.ends - MIN_LIFETIME - SLACK


def _gains(wish: Wish, token: Token) -> bool:
    """Whether the last token that can be had would be another, and last for longer."""
    return token.issued < _last_renewal(wish) and token.expires < wish.ends - SLACK


def removal_step(stored: Secret | None, bound: Sequence[Secret | None], *, heir: str | None = None) -> Drop | None:
    """The next Secret to delete of a kubeconfig that is not wanted any more: first those by which tokens die. None when all are
    gone. One mark is enough here: whoever strips the other saves no token. What has none is somebody else's, and stays; so does
    what is of the ServiceAccount that has the name now, its `heir`.
    """
    marked = (each for each in (*bound, stored) if each is not None and each.marked)
    return next((Drop(each, unchanged=each is stored) for each in marked if heir is None or each.account != heir), None)


def unwanted_step(rotation: str, bound: Sequence[Secret | None], *, heir: str | None = None) -> Drop | None:
    """The next Secret to delete of those whose tokens a rotation is to end, also where nothing can be put in their place."""
    marked = (slot for slot in bound if slot is not None and slot.marked)
    unwanted = (slot for slot in marked if slot.rotation != rotation and (heir is None or slot.account != heir))
    return next(map(Drop, unwanted), None)


def _too_late(wish: Wish) -> Refused:
    ends = in_words(datetime.fromtimestamp(wish.ends, UTC))
    return Refused(
        Reason.ENDS_TOO_SOON,
        f"ServiceAccount {wish.namespace}/{wish.account}: there is no token for its kubeconfig, since the grant ends at {ends} "
        f"and none is valid for less than {MIN_LIFETIME // 60} minutes: set a later spec.expirationTime",
    )


def _is_wanted(account: str, rotation: str, slot: Secret) -> bool:
    """Whether the tokens of a Secret may live on until their end: not after a rotation, nor those of another ServiceAccount."""
    return (slot.account, slot.rotation) == (account, rotation)


def _is_of(wish: Wish, token: Token, slot: Secret) -> bool:
    """Whether a token is one of this ServiceAccount, which may have been made anew, and of this rotation."""
    return token.account_uid == wish.account_uid and _is_wanted(wish.account, wish.rotation, slot)


def _is_longer(wish: Wish, expires: float, asked: float) -> bool:
    """Whether a token lives for longer than is wanted now. By what was asked for, not by what was given: else a server that gives
    more would be asked for ever.
    """
    return asked > wish.lifetime + SLACK or expires > wish.ends + SLACK


def _leaves(wish: Wish, token: Token, slot: Secret) -> float:
    """When the Secret of the token before this one is to go: with that, or soon where it lives for longer than is wanted now."""
    longer = _is_longer(wish, slot.expires, slot.asked)
    return min(slot.expires, token.issued + OVERLAP) if longer else slot.expires


def _is_due(wish: Wish, token: Token, slot: Secret, now: Reading, fresh: str) -> bool:
    """Whether a token is to be replaced."""
    return (
        not _is_of(wish, token, slot)
        or (_due_in(wish, token, now) <= 0 and slot.uid != fresh)
        or _is_longer(wish, token.issued + slot.asked, slot.asked)
    )
