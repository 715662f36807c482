"""Entry point of vmaccess-operator: settings, logging, signals, exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from pythonjsonlogger.json import JsonFormatter

from vmaccess import lean
from vmaccess import settings as options
from vmaccess.cluster.credentials import NoCredentials
from vmaccess.health import CannotListen
from vmaccess.operator import Unusable, run
from vmaccess.settings import Settings

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop  # a third less CPU time for each request

log = logging.getLogger("vmaccess")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the operator; exits 0 after SIGTERM or SIGINT, 1 on an error."""
    settings = options.read(arguments)
    _log_to_stderr(settings)
    lean.settle()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_until_signal(settings))
    except (CannotListen, NoCredentials, Unusable) as error:
        log.error("%s", error)
        sys.exit(1)
    except Exception:
        log.exception("the operator has failed")
        sys.exit(1)


async def _until_signal(settings: Settings) -> None:
    stop = asyncio.Event()

    def obey_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    obey_signals()
    await run(settings, stop, obey_signals=obey_signals)
    log.info("stopped")


def _log_to_stderr(settings: Settings) -> None:
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        names = {"asctime": "ts", "levelname": "level", "name": "logger", "message": "msg"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("kopf").setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
