"""Where the control plane's binaries come from: ready-made ones, those built before, or a build, in this order."""

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
        programs = [directory / name for name in NAMES]
        return cls(*programs) if all(os.access(program, os.X_OK) for program in programs) else None


def to_stderr(line: str) -> None:
    """Show a line of progress; flushed, so that it is seen in a CI log while it is true."""
    print(line, file=sys.stderr, flush=True)


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Return the folder that outlives checkouts: $VMACCESS_CACHE, $XDG_CACHE_HOME/vmaccess or ~/.cache/vmaccess."""
    if own := environment.get(CACHE_VARIABLE):
        return Path(own)
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vmaccess"


def cached_build(environment: Mapping[str, str]) -> Path:
    """Return the folder of this checkout's build: one for each set of versions, machine type and way of building."""
    digest = hashlib.sha256()
    for part in (
        (gobuild.MODULE / "go.mod").read_bytes(),
        (gobuild.MODULE / "go.sum").read_bytes(),
        " ".join([platform.system(), platform.machine(), *gobuild.arguments()]).encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return cache_directory(environment) / "controlplane" / digest.hexdigest()[:16]


def find(environment: Mapping[str, str], progress: Progress = to_stderr) -> Binaries | None:
    """Return ready-made binaries or those built before; None when they have to be built."""
    if assets := environment.get(ASSETS_VARIABLE):
        if found := Binaries.inside(Path(assets)):
            return found
        missing = [name for name in NAMES if not os.access(Path(assets) / name, os.X_OK)]
        progress(f"{ASSETS_VARIABLE}={assets} is not used: {', '.join(missing)} not there")
    return Binaries.inside(cached_build(environment))


def find_or_build(environment: Mapping[str, str] = os.environ, progress: Progress = to_stderr) -> Binaries:
    """Return the binaries, built if need be; raises BinariesError when that is impossible here."""
    if found := find(environment, progress):
        return found
    target = cached_build(environment)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.with_suffix(".lock"), progress):
        if found := Binaries.inside(target):
            return found
        # Beside the target, so that the final step is one rename: whoever sees the folder sees all of it.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as scratch:
            result = Path(scratch) / "bin"
            gobuild.build(result, progress)
            (result / gobuild.ETCD_PROGRAM).rename(result / "etcd")
            result.rename(target)
    built = Binaries.inside(target)
    if built is None:
        raise BinariesError(f"the build did not produce {', '.join(NAMES)} in {target}")
    return built


@contextlib.contextmanager
def _only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock that the kernel gives back even when we are killed."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building the control plane: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
