"""The process outlives an API server that is away: at its start, and later."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kopf
import pytest
import yaml

from tests.faults.test_crash import is_ready, until, user
from tests.stage import Stage, Who
from vmaccess import operator, settings
from vmaccess.cluster.credentials import NoCredentials, load
from vmaccess.settings import Settings

ANN = Who("ann")


class Relay:
    """A way to the API server that can be shut: whoever is on it is cut off, and nobody gets on."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        """Let through, on the same port as before."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Cut off everybody."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        self._server = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        self._open |= {writer, back}
        await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
        self._open -= {writer, back}


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def server_of(kubeconfig: Path) -> str:
    """The address in it."""
    return str(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])


def changed(kubeconfig: Path, directory: Path, changes: Mapping[str, object]) -> Path:
    """The same kubeconfig with another cluster in it; what is None is left out."""
    known = yaml.safe_load(kubeconfig.read_text())
    cluster = {**known["clusters"][0]["cluster"], **changes}
    known["clusters"][0]["cluster"] = {key: value for key, value in cluster.items() if value is not None}
    (path := directory / "changed.kubeconfig").write_text(yaml.safe_dump(known))
    return path


@asynccontextmanager
async def behind_a_relay(kubeconfig: Path, directory: Path) -> AsyncIterator[tuple[Relay, Settings]]:
    """A relay that is shut still, and settings by which the operator goes there."""
    server = urlsplit(server_of(kubeconfig))
    relay = Relay(str(server.hostname), int(server.port or 443))
    await relay.open()
    await relay.shut()
    path = changed(kubeconfig, directory, {"server": f"https://127.0.0.1:{relay.port}"})
    try:
        yield relay, replace(settings.read(["--kubeconfig", str(path), "--health-port", "0"]), kubeconfig_server=None)
    finally:
        await relay.shut()


async def test_an_api_server_that_is_away_is_waited_for(
    kubeconfig: Path, bare_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage, one = bare_stage, bare_stage.namespace()
    caplog.set_level(logging.WARNING)
    stop, unwell, run = asyncio.Event(), asyncio.Event(), kopf.operator

    async def brittle(**options: Any) -> None:
        """kopf as it is, but that it ends while the API server is unwell, as it does after some answers of 503."""
        working, ending = asyncio.create_task(run(**options)), asyncio.create_task(unwell.wait())
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (working, ending):
            task.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)
        if unwell.is_set():
            raise ConnectionError("503")

    monkeypatch.setattr(kopf, "operator", brittle)

    def logged(text: str) -> bool:
        return any(re.search(text, record.getMessage()) for record in caplog.records)

    async with behind_a_relay(kubeconfig, tmp_path) as (relay, told):
        process = asyncio.create_task(operator.run(told, stop, obey_signals=lambda: None))
        await until(lambda: logged("cannot be used yet"), "the operator to wait")
        await relay.open()
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name), "ready")

        await relay.shut()
        unwell.set()
        await until(lambda: logged("kopf's watch has ended"), "kopf to give up")
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one], "suspend": True})
        assert stage.views(ANN, one)
        await relay.open()
        await until(lambda: not stage.views(ANN, one), "what was missed to be done")
        unwell.clear()
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: stage.views(ANN, one), "it to go on")
        assert not process.done()
        stop.set()
        await asyncio.wait_for(process, 20)


async def test_one_that_is_told_to_stop_does_not_wait_any_longer(kubeconfig: Path, tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with behind_a_relay(kubeconfig, tmp_path) as (_, told):
        process = asyncio.create_task(operator.run(told, stop, obey_signals=lambda: None))
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.wait_for(process, 20)


async def test_credentials_that_are_refused_again_and_again_are_the_end(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def refused(**_: object) -> None:
        nonlocal tried
        tried += 1
        raise kopf.LoginError("no")

    monkeypatch.setattr(kopf, "operator", refused)
    monkeypatch.setattr(operator, "FIRST_PAUSE", 0.01)
    told = settings.read(["--kubeconfig", str(kubeconfig), "--health-port", "0"])
    with pytest.raises(RuntimeError, match="LoginError"):
        await asyncio.wait_for(operator.run(told, asyncio.Event(), obey_signals=lambda: None), 20)
    assert tried == operator.LOGINS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"certificate-authority-data": None, "insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ({"server": "http://127.0.0.1:1"}, "unencrypted"),
    ],
)
async def test_the_token_is_not_sent_to_whoever_answers(
    kubeconfig: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    path = changed(kubeconfig, tmp_path, changes)
    with pytest.raises(NoCredentials, match=says):
        await load(settings.read(["--kubeconfig", str(path)]))
