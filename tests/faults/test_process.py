"""The process outlives an API server that is away, at its start and later, and a kopf that ends of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kopf
import pytest

from localcluster import write_kubeconfig
from localcluster.access import read_kubeconfig
from tests.faults.faulty import FaultyApi, Request, Send
from tests.faults.test_crash import is_ready, until, user
from tests.stage import Json, Stage, Who
from vmaccess import operator, settings
from vmaccess.cluster.tasks import give_up
from vmaccess.controller import Controller

ANN = Who("ann")
PATIENCE = 30.0  # seconds for a process to end


class Relay:
    """A way to the API server that can be shut: whoever is on it is cut off, and nobody gets on."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        """Let through, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Cut off everybody; returns when they have noticed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._carrying:
            for writer in self._open:
                writer.transport.abort()
            await asyncio.wait(self._carrying, timeout=0.1)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        self._open |= {writer, back}
        try:
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
        finally:
            self._open -= {writer, back}


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def behind_a_relay(kubeconfig: Path, directory: Path) -> AsyncIterator[tuple[Relay, Path]]:
    """A relay that is shut still, and a kubeconfig by which the operator goes there."""
    access = read_kubeconfig(kubeconfig, directory)
    server = urlsplit(access.url)
    relay = Relay(str(server.hostname), int(server.port or 443))
    await relay.open()
    await relay.shut()
    try:
        yield relay, write_kubeconfig(directory / "relay.kubeconfig", replace(access, url=f"https://127.0.0.1:{relay.port}"))
    finally:
        await relay.shut()
        await asyncio.sleep(0.05)  # whoever was cut off hears of it in this very loop


@asynccontextmanager
async def running(kubeconfig: Path) -> AsyncIterator[asyncio.Task[None]]:
    """The operator as a process runs it, in this very loop, and stopped at the end."""
    told, stop = settings.read(["--kubeconfig", str(kubeconfig), "--health-port", "0"]), asyncio.Event()
    process = asyncio.create_task(operator.run(told, stop, obey_signals=lambda: None))
    try:
        yield process
    finally:
        stop.set()
        done, _ = await asyncio.wait((process,), timeout=PATIENCE)
        await asyncio.sleep(0.1)  # aiohttp closes TLS connections a little later than its session
    assert done, "the process does not stop"
    process.result()


async def until_it_ends(kubeconfig: Path) -> None:
    """The operator until it ends by itself. Raises what it has ended by."""
    async with running(kubeconfig) as process:
        await asyncio.wait((process,), timeout=PATIENCE)


class Kopf:
    """kopf as it is, but that one of its tasks fails while it is `unwell`, as after some answers of 503."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unwell = asyncio.Event()
        self.told: list[str] = []  # the grants that it has told of
        self._run, tell = kopf.run_tasks, Controller.heard_of

        def heard_of(controller: Controller, name: str, uid: str, generation: int) -> None:
            self.told.append(name)
            tell(controller, name, uid, generation)

        monkeypatch.setattr(kopf, "run_tasks", self._run_tasks)
        monkeypatch.setattr(Controller, "heard_of", heard_of)

    async def _run_tasks(self, tasks: Collection[asyncio.Task[Any]], **options: Any) -> None:
        await self._run([*tasks, asyncio.create_task(self._fail())], **options)

    async def _fail(self) -> None:
        await self.unwell.wait()
        raise ConnectionError("503")


@pytest.fixture
def brittle(monkeypatch: pytest.MonkeyPatch) -> Kopf:
    """A kopf that can be made to fail."""
    return Kopf(monkeypatch)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[str], bool]:
    """Whether the operator has said that."""
    caplog.set_level(logging.INFO)
    return lambda text: any(text in record.getMessage() for record in caplog.records)


async def test_an_api_server_that_is_away_is_waited_for(
    kubeconfig: Path, bare_stage: Stage, tmp_path: Path, brittle: Kopf, logged: Callable[[str], bool]
) -> None:
    stage, one = bare_stage, bare_stage.namespace()
    async with behind_a_relay(kubeconfig, tmp_path) as (relay, way), running(way) as process:
        await until(lambda: logged("cannot be used yet"), "the operator to wait")
        await relay.open()
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name), "ready")
        await until(lambda: name in brittle.told, "kopf to tell of it")

        await relay.shut()
        brittle.unwell.set()
        await until(lambda: logged("kopf's watch has ended"), "kopf to give up")
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one], "suspend": True})
        assert stage.views(ANN, one)
        await relay.open()
        await until(lambda: not stage.views(ANN, one), "what was missed to be done")

        brittle.unwell.clear()
        brittle.told.clear()
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: stage.views(ANN, one), "it to go on")
        await until(lambda: name in brittle.told, "kopf to tell of it again")
        assert not process.done()


async def test_a_kopf_that_ends_leaves_alone_what_is_on_its_way(
    kubeconfig: Path,
    bare_stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    brittle: Kopf,
    logged: Callable[[str], bool],
) -> None:
    stage, one, under_way, go = bare_stage, bare_stage.namespace(), asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and "/rolebindings/" in request.path:
            under_way.set()
            await go.wait()
        return await send()

    monkeypatch.setattr(operator, "Api", lambda config, **_: FaultyApi(config, plan))
    async with running(kubeconfig):
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name), "ready")
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one], "suspend": True})
        await asyncio.wait_for(under_way.wait(), PATIENCE)
        brittle.unwell.set()
        await until(lambda: logged("kopf's watch has ended"), "kopf to give up")
        go.set()
        await until(lambda: not stage.views(ANN, one), "the access to be taken away")


async def test_kopf_knows_its_own_tasks_from_all_others() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    ours, libraries = asyncio.create_task(wait()), asyncio.create_task(asyncio.Event().wait())
    kopfs = asyncio.create_task(kopf.run_tasks([asyncio.create_task(wait())]))
    spared = operator._AllButKopfs()
    assert ours in spared
    assert libraries in spared
    assert kopfs not in spared
    await give_up((ours, libraries, kopfs))


async def test_one_that_is_told_to_stop_does_not_wait_any_longer(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "FIRST_PAUSE", 1000.0)
    async with behind_a_relay(kubeconfig, tmp_path) as (_, way), running(way) as process:
        await asyncio.sleep(0.2)
        assert not process.done()


async def test_credentials_that_are_refused_again_and_again_are_the_end_and_leave_no_request_behind(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, one, posting, answer = bare_stage, bare_stage.namespace(), asyncio.Event(), asyncio.Event()
    tried = given_up = 0

    async def refused(**_: object) -> None:
        nonlocal tried
        tried += 1
        await posting.wait()
        raise kopf.LoginError("no")

    async def plan(request: Request, send: Send) -> Json:
        nonlocal given_up
        if "/events" in request.path:
            posting.set()
            try:
                await answer.wait()
            except asyncio.CancelledError:
                given_up += 1
                raise
        return await send()

    monkeypatch.setattr(kopf, "spawn_tasks", refused)
    monkeypatch.setattr(operator, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(operator, "Api", lambda config, **_: FaultyApi(config, plan))
    await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
    with pytest.raises(RuntimeError, match="LoginError"):
        await until_it_ends(kubeconfig)
    assert given_up
    assert tried == operator.LOGINS
