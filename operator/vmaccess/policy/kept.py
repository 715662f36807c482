"""What is read of a kubeconfig that is kept: the Secret with it, the two that its tokens are bound to, and the tokens."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vmaccess.model.spec import MAX_LIFETIME
from vmaccess.policy.children import GROUP, ROTATE, GrantId
from vmaccess.policy.credentials import ACCOUNT, EXPIRES, is_managed

KEY = "kubeconfig"  # in the data of the Secret
LIFETIME = f"{GROUP}/lifetime-seconds"  # annotation of a Secret that a token is bound to: what was asked for
LONGEST = MAX_LIFETIME + 86400  # seconds that a token may live; what says more is made up
LAST = 1 << 35  # seconds since 1970 that a time can have
TOKEN = re.compile(r"^    token: ([A-Za-z0-9_.-]{1,16384})$", re.MULTILINE)


def slots(secret: str) -> tuple[str, str]:
    """Names of the two Secrets that the tokens of a kubeconfig are bound to, in turn."""
    return f"{secret}-token-a", f"{secret}-token-b"


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says of itself; whether it is genuine only the API server knows. Times are seconds since 1970."""

    value: str
    secret_uid: str
    account_uid: str
    issued: float
    expires: float


@dataclass(frozen=True, slots=True)
class Secret:
    """One of the three Secrets as it was read.

    `ours` says that it carries both marks of the grant, `marked` that it carries one of them at least. `held` is there while it
    waits to be deleted, `locked` where nothing in it can be changed. `text` is the kubeconfig, empty in the other two; `expires`
    is 0 where it is not known, `asked` is the lifetime in seconds that was asked for.
    """

    name: str
    uid: str
    version: int
    ours: bool
    marked: bool
    held: bool
    locked: bool
    finalizers: bool
    account: str
    text: str
    rotation: str
    expires: float
    asked: float


def read_token(text: str) -> Token | None:
    """The token in a kubeconfig that we wrote. The text is searched, not parsed: somebody may have put anything there."""
    found = TOKEN.search(text)
    return parse_token(found[1]) if found is not None else None


def parse_token(value: str) -> Token | None:
    """What a ServiceAccount's token says of itself; None where it is none, or bound to no Secret."""
    try:
        payload = value.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        kubernetes, issued, expires = claims["kubernetes.io"], claims["iat"], claims["exp"]
        secret, account = kubernetes["secret"]["uid"], kubernetes["serviceaccount"]["uid"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not (isinstance(issued, int) and isinstance(expires, int) and 0 < issued < expires <= issued + LONGEST and expires < LAST):
        return None  # somebody has made it up
    return Token(value, secret, account, float(issued), float(expires))


def read_secret(raw: Mapping[str, Any], grant: GrantId) -> Secret:
    """One of the three as the API server answers. It is ours by both marks: by one alone anybody could make us touch his."""
    meta = raw["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    marks = (any(each.get("uid") == grant.uid for each in meta.get("ownerReferences") or ()), is_managed(labels, grant))
    return Secret(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        ours=all(marks),
        marked=any(marks),
        held="deletionTimestamp" in meta,
        locked=bool(raw.get("immutable")),
        finalizers=bool(meta.get("finalizers")),
        account=notes.get(ACCOUNT, ""),
        text=_decoded((raw.get("data") or {}).get(KEY, "")),
        rotation=notes.get(ROTATE, ""),
        expires=_seconds(notes.get(EXPIRES, "")),
        asked=_number(notes.get(LIFETIME, "")),
    )


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data).decode()
    except (ValueError, binascii.Error):
        return ""


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError):
        return 0.0


def _number(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 16 else math.inf
