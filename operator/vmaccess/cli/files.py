"""Where a kubeconfig goes: printed, into a file of its own, or among the entries of another kubeconfig.

A file is written whole or not at all, and can be read by its owner alone from its first moment on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmaccess.cli.caller import entries, load, read_cluster
from vmaccess.cli.failed import Failed
from vmaccess.cli.marks import Issued, is_marked, mark, read_issued
from vmaccess.policy.kubeconfig import dump

Json = dict[str, Any]

_SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}


@dataclass(frozen=True, slots=True)
class Written:
    """Whether something has given way, and the credentials that it named, which it does not end."""

    replaced: bool = False
    credentials: tuple[Issued, ...] = ()


@dataclass(frozen=True, slots=True)
class Printed:
    """Standard output."""

    def check(self, config: Json) -> None:
        """Raise nothing: nothing can be in the way."""

    def write(self, config: Json) -> Written:
        """Print it, to the last letter; raises OSError where nobody takes it."""
        sys.stdout.write(dump(config))
        sys.stdout.flush()
        return Written()


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that holds nothing else. With `replace`, whatever has its name gives way: a link is replaced, not followed."""

    path: Path
    replace: bool

    def check(self, config: Json) -> None:  # noqa: ARG002 - as of all outputs
        """Raise Failed where the file could not be written."""
        with _said_of(self.path):
            _check_folder(self.path)
            if os.path.lexists(self.path) and not self.replace:
                raise Failed(f"{self.path} exists: name another file with --output, or replace it with --force")

    def write(self, config: Json) -> Written:
        """Write it; raises Failed."""
        with _said_of(self.path):
            if self.replace:
                before = Written(os.path.lexists(self.path), _named_in(self.path))
                _replace(self.path, dump(config))
                return before
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with _gone_on_failure(self.path):
                _fill(handle, dump(config))
            return Written()


@dataclass(frozen=True, slots=True)
class MergedFile:
    """Entries of a kubeconfig with others, which stay as they are. With `replace`, entries that we wrote before give way."""

    path: Path
    replace: bool

    def check(self, config: Json) -> None:
        """Raise Failed where the file could not be written, or something else has the names of our entries."""
        with _said_of(self.path):
            _check_folder(self.path)
        merged(load(self.path) or {}, config, self.path, replace=self.replace)

    def write(self, config: Json) -> Written:
        """Write it; raises Failed."""
        with _said_of(self.path), _locked(self.path):
            before = load(self.path) or {}
            text = dump(merged(before, config, self.path, replace=self.replace))
            target = Path(os.path.realpath(self.path))  # a link to where somebody keeps this file stays one
            _replace(target, text, target.stat() if target.exists() else None)
            return _giving_way(before, config)


Output = Printed | OwnFile | MergedFile


def merged(file: Json, config: Json, path: Path, *, replace: bool) -> Json:
    """The content of a file with our entries among its own; raises Failed where a name is taken.

    A cluster of the same name that says the same stays as it is. The current context is ours only where there was none.
    """
    result: Json = {"apiVersion": "v1", "kind": "Config"} | file
    for section, field in _SECTIONS.items():
        (ours,) = config[section]
        theirs = entries(file, section)
        same = next((entry for entry in theirs if entry["name"] == ours["name"]), None)
        if same is None:
            result[section] = [*theirs, _marked(ours, field)]
        elif section == "clusters" and _says_the_same(same, ours, path):
            continue
        elif not is_marked(_fields(same, field)):
            raise Failed(
                f"{path} has another {field} {ours['name']!r}, which is not touched: give it another name, or write to a file "
                f"of its own"
            )
        elif section == "clusters" and (led := _led_by(ours["name"], file, config["current-context"])):
            raise Failed(
                f"{path} has a cluster {ours['name']!r} with another server or CA, which is not touched, as these contexts would "
                f"lead elsewhere: {', '.join(led)}; give it another name, write to a file of its own, or, where the cluster has "
                f"moved, delete these contexts first"
            )
        elif not replace:
            raise Failed(f"{path} has a {field} {ours['name']!r} that was written before: replace it with --force")
        else:
            result[section] = [_marked(ours, field) if entry is same else entry for entry in theirs]
    return result | {"current-context": file.get("current-context") or config["current-context"]}


def _giving_way(file: Json, config: Json) -> Written:
    """What of a file our user and our context take the place of."""
    users, contexts = (
        [each for each in entries(file, section) if each["name"] == config[section][0]["name"]]
        for section in ("users", "contexts")
    )
    return Written(bool(users or contexts), _issued(users))


def _named_in(path: Path) -> tuple[Issued, ...]:
    """The credentials that a file names; none where it is anything else than a kubeconfig."""
    try:
        return _issued(entries(load(path) or {}, "users")) if path.is_file() else ()
    except Failed:
        return ()


def _issued(users: list[Json]) -> tuple[Issued, ...]:
    return tuple(issued for user in users if (issued := read_issued(_fields(user, "user"))) is not None)


def _marked(entry: Json, field: str) -> Json:
    return entry if is_marked(entry[field]) else entry | {field: entry[field] | mark()}


def _fields(entry: Json, field: str) -> Json:
    fields = entry.get(field)
    return fields if isinstance(fields, dict) else {}


def _led_by(cluster: str, file: Json, written: str) -> list[str]:
    """Names of the contexts that use this cluster, but for the one that is written: also what we wrote before has the token of
    another cluster where two have the same name.
    """
    others = (entry for entry in entries(file, "contexts") if entry["name"] != written)
    return [entry["name"] for entry in others if _fields(entry, "context").get("cluster") == cluster]


def _says_the_same(theirs: Json, ours: Json, path: Path) -> bool:
    fields = _fields(theirs, "cluster")
    if fields.get("insecure-skip-tls-verify"):
        return False
    return read_cluster("", fields, path.parent) == read_cluster("", ours["cluster"], path.parent)


def _check_folder(path: Path) -> None:
    if path.is_dir():
        raise Failed(f"{path} is a folder: name a file with --output")
    if not path.parent.is_dir():
        raise Failed(f"the folder {path.parent} does not exist")


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise Failed(f"{path} exists by now: name another file with --output, or replace it with --force") from error
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}") from error


def _replace(path: Path, text: str, before: os.stat_result | None = None) -> None:
    """Put a file with the whole text in the place of what is there. Where that is a file to keep, `before`, its owner and group
    stay where the caller may give a file to them, and its owner is given no access that he did not have.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with _gone_on_failure(Path(draft)):
        if before is not None:
            os.fchmod(handle, before.st_mode & 0o600)  # by its path it could be another by now
            _give(handle, before)
        _fill(handle, text)
        os.replace(draft, path)


def _give(handle: int, before: os.stat_result) -> None:
    """Give a file to the owner and the group of another, as far as that is allowed: to another owner it is to root alone."""
    made = os.fstat(handle)
    with suppress(OSError):
        if made.st_gid != before.st_gid:
            os.fchown(handle, -1, before.st_gid)
    with suppress(OSError):
        if made.st_uid != before.st_uid:
            os.fchown(handle, before.st_uid, -1)


def _fill(handle: int, text: str) -> None:
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _gone_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold kubectl's own lock of a kubeconfig, by its name as given. Source: client-go tools/clientcmd/loader.go, lockFile."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError as error:
        raise Failed(f"another program is changing {path}: try again, and if none is, remove {lock}") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
