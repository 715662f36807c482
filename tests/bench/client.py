"""A plain JSON client over aiohttp: the benchmark's admin, and the floor of reading. It shares no code with the operator."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from localcluster import Access

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
LONGEST_EVENT = 1 << 20  # bytes of a line that aiohttp is ready to hold


class Refused(Exception):
    """The API server answered with an error, in its own words."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request}: {status} {text[:500]}")
        self.status = status


class Client:
    """One identity at the API server, for as long as the context lasts. Nothing is tried again."""

    def __init__(self, access: Access, *, connections: int = 64) -> None:
        self._access, self._connections = access, connections

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._access.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=context),
            headers={"Authorization": f"Bearer {self._access.token}"},
            read_bufsize=LONGEST_EVENT,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "",
        accept: str = "application/json",
        ignore: Collection[int] = (),
        seconds: float = 60,
    ) -> Json:
        """One request and its answer; PATCH is a merge patch unless told otherwise.

        Raises Refused for an error whose status is not among `ignore`, TimeoutError after `seconds`.
        """
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type or (MERGE_PATCH if method == "PATCH" else "application/json")
        data = None if body is None else json.dumps(body).encode()
        limit = aiohttp.ClientTimeout(total=seconds)
        async with self._session.request(method, self._access.url + path, data=data, headers=headers, timeout=limit) as response:
            text = await response.read()
            if response.status >= 400 and response.status not in ignore:
                raise Refused(f"{method} {path}", response.status, text.decode(errors="replace"))
            answer: Json = json.loads(text)
            return answer

    async def pages(self, path: str, *, limit: int = 500, accept: str = "application/json") -> AsyncIterator[Json]:
        """Every page of a collection."""
        token = ""
        while True:
            page = await self.request("GET", f"{path}?limit={limit}" + (f"&continue={token}" if token else ""), accept=accept)
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def watch(self, path: str, version: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        """The events of a collection since a resourceVersion, for up to half an hour."""
        parameters = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1800", **query}
        limit = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._access.url + path, params=parameters, timeout=limit) as response:
            if response.status >= 400:
                raise Refused(f"watch {path}", response.status, await response.text())
            async for line in response.content:
                event: Json = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(f"watch {path}", event["object"].get("code", 0), event["object"].get("message", ""))
                yield event
