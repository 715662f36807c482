"""Who may do what, as the API server itself says: no scenario ends with "the object exists"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from tests.bench.client import Client, Json

T = TypeVar("T")

REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
PATIENCE = 5.0  # seconds; a busy API server's authorizer hears of a write a while after the writer has its answer
AT_ONCE = 16
ASKED_AGAIN = 0.1  # seconds; more often, the questions would take the CPU from the answer

QUESTIONS: dict[str, Json] = {
    "list": {"verb": "list", "group": "kubevirt.io", "resource": "virtualmachines"},
    "start": {
        "verb": "update",
        "group": "subresources.kubevirt.io",
        "resource": "virtualmachines",
        "subresource": "start",
    },
    "delete": {"verb": "delete", "group": "kubevirt.io", "resource": "virtualmachines"},
}
NOTHING, VIEW, OPERATE = frozenset[str](), frozenset({"list"}), frozenset({"list", "start"})
STRANGER = "eve"


class Row(NamedTuple):
    """What a user may do in a namespace: all that `rights` names of QUESTIONS, and nothing else of it."""

    user: str
    namespace: str
    rights: frozenset[str]


def rows(user: str, namespaces: Iterable[str], rights: frozenset[str]) -> list[Row]:
    """The same for a user in each of these namespaces, and nothing there for a stranger."""
    return [row for namespace in namespaces for row in (Row(user, namespace, rights), Row(STRANGER, namespace, NOTHING))]


def sample(names: Sequence[T], most: int = 20) -> list[T]:
    """Some of them, evenly spread, the first among them."""
    return list(names[:: max(1, len(names) // most)][:most])


async def may(client: Client, user: str, namespace: str, question: str) -> bool:
    """One SubjectAccessReview."""
    attributes = {"namespace": namespace, **QUESTIONS[question]}
    answer = await client.request("POST", REVIEWS, {"spec": {"user": user, "resourceAttributes": attributes}})
    allowed: bool = answer["status"]["allowed"]
    return allowed


async def wrong(client: Client, table: Iterable[Row]) -> list[str]:
    """What of the table does not hold, in words, when it has had a moment to become true."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def answer(row: Row, question: str) -> str:
        deadline = time.monotonic() + PATIENCE
        expected = question in row.rights
        async with slots:
            while await may(client, row.user, row.namespace, question) is not expected:
                if time.monotonic() > deadline:
                    return f"{row.user} {'may not' if expected else 'may'} {question} in {row.namespace}"
                await asyncio.sleep(0.05)
        return ""

    return [found for found in await asyncio.gather(*(answer(row, each) for row in table for each in QUESTIONS)) if found]


async def until_refused(client: Client, user: str, namespaces: Iterable[str], question: str) -> None:
    """Ask again and again, everywhere at once, until the user may nowhere do this any more."""

    async def ask(namespace: str) -> None:
        while await may(client, user, namespace, question):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(ASKED_AGAIN)

    await asyncio.gather(*map(ask, namespaces))
