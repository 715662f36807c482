"""What entries of a kubeconfig tell of themselves: that we wrote them, and a user's also of which credential it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MARK = "vmaccess.dev"  # name of the extension
GRANT, CREDENTIAL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"), re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A credential by its id, and the grant that it is of; `credential` is None where it cannot be revoked by itself."""

    grant: str
    credential: str | None


def mark(issued: Issued | None = None) -> Json:
    """The `extensions` of an entry of ours."""
    named = {"grant": issued.grant, "credential": issued.credential} if issued is not None else {}
    told = {"writtenBy": "kubectl vmaccess", **{key: value for key, value in named.items() if value is not None}}
    return {"extensions": [{"name": MARK, "extension": told}]}


def is_marked(fields: Json) -> bool:
    """Whether the fields of an entry say that it is ours."""
    return any(True for _ in _marks(fields))


def read_issued(fields: Json) -> Issued | None:
    """The credential that a user's fields name; None for anything that we would not have written, which may be anybody's."""
    for extension in _marks(fields):
        grant, credential = (str(extension.get(key)) for key in ("grant", "credential"))
        if GRANT.fullmatch(grant) and CREDENTIAL.fullmatch(credential):
            return Issued(grant, credential)
    return None


def _marks(fields: Json) -> Iterator[Json]:
    extensions = fields.get("extensions")
    for each in extensions if isinstance(extensions, list) else ():
        if isinstance(each, dict) and each.get("name") == MARK:
            told = each.get("extension")
            yield told if isinstance(told, dict) else {}
