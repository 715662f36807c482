"""Which grants live, and what became of those that do not: the watches are unordered, so where it matters it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

from vmaccess.cluster.api import GRANTS, Api, ApiError, Json
from vmaccess.keys import Key
from vmaccess.policy.children import GrantId
from vmaccess.policy.grant import Deletion, Grant
from vmaccess.policy.steps import Create, Delete, Patch, Write
from vmaccess.progress import Progress


class Life(Enum):
    """What is known of the owner of a child."""

    LIVES = "lives"
    ENDED = "is gone, or being deleted"
    ASKED = "somebody is asking just now"


@dataclass(slots=True)
class Past:
    """Uids of grants of one name that are no more.

    `gone` are those that a read of the name did not find; `revoked` those whose end was seen and was not an orphaning, so that
    a label is enough to condemn a child; `left` those that were deleted with --cascade=orphan, whose children stay.
    """

    gone: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)


class Ownership:
    """Remembers how grants ended, and reads a grant by name where its children tell something else than the mirror."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._past: dict[str, Past] = {}
        self._asking: set[str] = set()
        self.asked = 0  # how often the API server was asked

    def past(self, name: str) -> Past:
        """What is known of earlier grants of this name."""
        return self._past.setdefault(name, Past())

    def revoked(self, name: str) -> Set[str]:
        """Uids of those earlier grants of this name whose children are to go, by whatever mark."""
        return past.revoked if (past := self._past.get(name)) is not None else frozenset()

    def forget(self, name: str) -> None:
        """Nothing is left of any grant of this name."""
        self._past.pop(name, None)

    def ended(self, last: Grant) -> None:
        """The watch has shown the end of a grant, and every state before it."""
        past = self.past(last.id.name)
        (past.left if last.deletion is Deletion.ORPHAN else past.revoked).add(last.uid)

    async def of(self, progress: Progress, key: Key, step: Write) -> Life:
        """Whether the grant lives, as far as `step` depends on it.

        A child that vanished may have been garbage collected with a grant whose deletion has not been seen yet, one without
        its ownerReference may have been orphaned by it, and a child of another uid is condemned only once ours is known to
        live. Raises ApiError where the API server does not say.
        """
        match step:
            case Create() if (vanished := progress.lost.get(key)) is not None:
                since = vanished
            case Delete(unchanged=True):
                since = 0.0
            case Patch(child, marks=GrantId()) if child.marked_owner is None:
                since = asyncio.get_running_loop().time()
            case _:
                return Life.LIVES
        if progress.verified_at > since:
            return Life.LIVES
        if key.grant in self._asking:
            return Life.ASKED  # one worker waits for the answer, not all of them
        self._asking.add(key.grant)
        try:
            asked = asyncio.get_running_loop().time()
            metadata = await self._read(key.grant)
        finally:
            self._asking.discard(key.grant)
        if metadata is None or "deletionTimestamp" in metadata or metadata["uid"] != progress.grant.uid:
            return Life.ENDED
        progress.verified_at = asked
        return Life.LIVES

    async def confirm(self, name: str, uids: Iterable[str]) -> bool:
        """Learn which of the grants with these uids are gone; False where the API server still knows a grant of the name."""
        metadata = await self._read(name)
        self.past(name).gone.update(set(uids) - {metadata["uid"] if metadata is not None else ""})
        return metadata is None

    async def _read(self, name: str) -> Json | None:
        self.asked += 1
        try:
            metadata: Json = (await self._api.get(GRANTS.path(name=name)))["metadata"]
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return metadata
