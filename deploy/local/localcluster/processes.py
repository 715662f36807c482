"""Starts and stops the components of a control plane, so that none of them is left over whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from localcluster.errors import ComponentError

_TAIL_LINES = 20


class Watchdog:
    """Kills every process group it was told of, and removes `directory`, once this process is gone or has closed it."""

    def __init__(self, directory: Path) -> None:
        reading, self._orders = os.pipe()
        # Isolated and without site-packages: ready in some 20 ms. A session of its own: no Ctrl-C reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), str(directory)],
            stdin=reading,
            start_new_session=True,
        )
        os.close(reading)

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, pid: int) -> None:
        os.write(self._orders, b"+%d\n" % pid)

    def forget(self, pid: int) -> None:
        os.write(self._orders, b"-%d\n" % pid)

    def close(self) -> None:
        """Let the watchdog kill what it still watches, remove the directory, and end."""
        os.close(self._orders)
        self._process.wait()


class Component:
    """One long-running program with its log, in a process group of its own; it may be stopped and started again."""

    def __init__(self, name: str, command: Sequence[str], *, directory: Path, watchdog: Watchdog) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._command = list(command)
        self._directory = directory
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the program; raises ComponentError when it cannot be executed at all."""
        if self._process:
            raise ComponentError(f"{self.name} runs already, as process {self._process.pid}")
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._directory,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ComponentError(f"{self.name} cannot be started: {error}") from error
        self._watchdog.watch(self._process.pid)

    def _environment(self) -> dict[str, str]:
        # etcd takes ETCD_* for flags, and refuses to start where a flag says otherwise; virt-api leaves a temporary folder.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        return inherited | {"TMPDIR": str(self._directory)}

    def check(self) -> None:
        """Raise ComponentError with the tail of the log when the program has ended by itself."""
        if self._process and (code := self._process.poll()) is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
            tail = "\n".join(self.written().splitlines()[-_TAIL_LINES:])
            raise ComponentError(f"{self.name} ended with {how}; the end of its log:\n{tail}")

    def written(self) -> str:
        """Return what the program has logged since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """Kill the program's group and return when the program is gone: the data is thrown away or safe in etcd."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._watchdog.forget(self._process.pid)
            self._process = None
