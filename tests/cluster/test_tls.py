"""Sessions that are taken up again: with the real API server, and never with a server that is not trusted."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from localcluster import Cluster
from localcluster.certificates import Authority
from vmaccess.cluster.tls import LONGEST, resume

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on the loop of the standard library and on the one that the operator runs on: each has a TLS code of its own."""

    def on_it(job: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(job)

    return on_it


def trusting(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    resume(context)
    return context


@pytest.fixture
def api_server(cluster: Cluster) -> tuple[int, ssl.SSLContext]:
    """The API server's port, and a context that trusts it."""
    port = urlsplit(cluster.admin.url).port
    assert port is not None
    return port, trusting(cluster.admin.ca_file)


@pytest.fixture
def trusted(tmp_path: Path) -> tuple[Authority, ssl.SSLContext]:
    """An authority, and a context that trusts the servers of it."""
    authority = Authority(tmp_path, "ca")
    return authority, trusting(authority.ca_file)


async def ask(port: int, context: ssl.SSLContext, name: str = "127.0.0.1") -> bool:
    """Ask something of the server on that port that is to have that name; whether the connection took up a session."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        writer.write(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return bool(found.session_reused)
    finally:
        writer.close()
        await writer.wait_closed()


async def ask_at_once(times: int, port: int, context: ssl.SSLContext) -> list[bool]:
    return await asyncio.gather(*(ask(port, context) for _ in range(times)))


@asynccontextmanager
async def serving(authority: Authority, port: int = 0) -> AsyncIterator[int]:
    """A server of this authority, until the context ends; the port it listens on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server("server", ["127.0.0.1"]))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_the_api_server_lets_sessions_be_taken_up(api_server: tuple[int, ssl.SSLContext], run: Run) -> None:
    port, context = api_server

    async def job() -> None:
        assert not await ask(port, context)
        assert all(await ask_at_once(20, port, context))

    run(job())


def test_many_at_once_that_know_no_session(api_server: tuple[int, ssl.SSLContext], run: Run) -> None:
    port, context = api_server

    async def job() -> None:
        await ask_at_once(20, port, context)
        assert all(await ask_at_once(20, port, context))

    run(job())


def test_a_server_that_knows_the_session_no_more(trusted: tuple[Authority, ssl.SSLContext], run: Run) -> None:
    authority, context = trusted

    async def job() -> None:
        async with serving(authority) as port:
            assert not await ask(port, context)
            assert await ask(port, context)
        async with serving(authority, port):  # started anew
            assert not await ask(port, context)
            assert await ask(port, context)

    run(job())


def test_a_server_that_is_not_trusted_is_refused(trusted: tuple[Authority, ssl.SSLContext], tmp_path: Path, run: Run) -> None:
    (ours, context), another = trusted, Authority(tmp_path, "other-ca")

    async def job() -> None:
        async with serving(ours) as port:
            await ask_at_once(3, port, context)
        async with serving(another, port):
            for _ in range(2):
                with pytest.raises(ssl.SSLCertVerificationError):
                    await ask(port, context)
        async with serving(ours, port):
            assert not await ask(port, context)

    run(job())


def test_a_server_must_have_the_name_it_is_asked_by(trusted: tuple[Authority, ssl.SSLContext], run: Run) -> None:
    authority, context = trusted

    async def job() -> None:
        async with serving(authority) as port:
            await ask(port, context)
            assert await ask(port, context)
            for _ in range(2):
                with pytest.raises(ssl.SSLCertVerificationError):
                    await ask(port, context, "api.example.com")
            assert await ask(port, context)

    run(job())


def test_the_certificate_is_seen_again_in_time(
    trusted: tuple[Authority, ssl.SSLContext], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (authority, context), now = trusted, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def job() -> None:
        nonlocal now
        async with serving(authority) as port:
            assert not await ask(port, context)
            for _ in range(3):
                now += LONGEST / 3
                assert await ask(port, context)
            now += 1
            assert not await ask(port, context)
            assert await ask(port, context)

    run(job())
