"""Where the binaries come from: ready-made ones, those built before, or a build, in this order."""

import contextlib
import fcntl
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from localcluster import gobuild
from localcluster.errors import BinariesError

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
CACHE_VARIABLE = "VMACCESS_CACHE"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager")
VIRT_NAMES = ("virt-api", "virtctl")
_RENAMED = {"server": "etcd"}
"""What is not known by the name that go gives it."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Binaries:
    """The three programs a control plane consists of."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path

    @classmethod
    def inside(cls, directory: Path) -> Self | None:
        """Return the programs of a folder, None when it does not hold all three."""
        programs = _inside(directory, NAMES)
        return cls(*programs) if programs else None


@dataclass(frozen=True)
class VirtBinaries:
    """KubeVirt's aggregated API server and its command line client."""

    virt_api: Path
    virtctl: Path

    @classmethod
    def inside(cls, directory: Path) -> Self | None:
        """Return the programs of a folder, None when it does not hold both."""
        programs = _inside(directory, VIRT_NAMES)
        return cls(*programs) if programs else None


def to_stderr(line: str) -> None:
    """Show a line of progress; flushed, so that it is seen in a CI log while it is true."""
    print(line, file=sys.stderr, flush=True)


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Return the folder that outlives checkouts: $VMACCESS_CACHE, $XDG_CACHE_HOME/vmaccess or ~/.cache/vmaccess."""
    if own := environment.get(CACHE_VARIABLE):
        return Path(own)
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vmaccess"


def cached_build(recipe: gobuild.Recipe, environment: Mapping[str, str]) -> Path:
    """Return the folder of this checkout's build: one for each set of versions, machine type and way of building."""
    digest = hashlib.sha256()
    for part in (
        (recipe.module / "go.mod").read_bytes(),
        (recipe.module / "go.sum").read_bytes(),
        " ".join([platform.system(), platform.machine(), *gobuild.arguments(recipe)]).encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return cache_directory(environment) / recipe.module.name / digest.hexdigest()[:16]


def find(environment: Mapping[str, str], progress: Progress = to_stderr) -> Binaries | None:
    """Return a control plane's ready-made binaries or those built before; None when they have to be built."""
    if assets := environment.get(ASSETS_VARIABLE):
        if found := Binaries.inside(Path(assets)):
            return found
        missing = [name for name in NAMES if not os.access(Path(assets) / name, os.X_OK)]
        progress(f"{ASSETS_VARIABLE}={assets} is not used: {', '.join(missing)} not there")
    return Binaries.inside(cached_build(gobuild.CONTROL_PLANE, environment))


def find_or_build(environment: Mapping[str, str] = os.environ, progress: Progress = to_stderr) -> Binaries:
    """Return a control plane's binaries, built if need be; raises BinariesError when that is impossible here."""
    return find(environment, progress) or Binaries(*_built(gobuild.CONTROL_PLANE, NAMES, environment, progress))


def find_or_build_virt(environment: Mapping[str, str] = os.environ, progress: Progress = to_stderr) -> VirtBinaries:
    """Return virt-api and virtctl, built if need be; raises BinariesError when that is impossible here."""
    return VirtBinaries(*_built(gobuild.VIRT, VIRT_NAMES, environment, progress))


def _built(recipe: gobuild.Recipe, names: tuple[str, ...], environment: Mapping[str, str], progress: Progress) -> list[Path]:
    target = cached_build(recipe, environment)
    if found := _inside(target, names):
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(recipe, target.with_suffix(".lock"), progress):
        if found := _inside(target, names):
            return found
        # Beside the target, so that the final step is one rename: whoever sees the folder sees all of it.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as scratch:
            result = Path(scratch) / "bin"
            gobuild.build(recipe, result, progress)
            for program in map(gobuild.program, recipe.packages):
                (result / program).rename(result / _RENAMED.get(program, program))
            result.rename(target)
    if built := _inside(target, names):
        return built
    raise BinariesError(f"the build did not produce {', '.join(names)} in {target}")


def _inside(directory: Path, names: tuple[str, ...]) -> list[Path] | None:
    programs = [directory / name for name in names]
    return programs if all(os.access(program, os.X_OK) for program in programs) else None


@contextlib.contextmanager
def _only_one(recipe: gobuild.Recipe, lock: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock that the kernel gives back even when we are killed."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is building {recipe.what}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
