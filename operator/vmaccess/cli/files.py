"""Where a kubeconfig goes: printed, into a file of its own, or among the entries of another kubeconfig.

A file is written whole or not at all, and can be read by its owner alone from its first moment on.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vmaccess.cli.caller import entries, load, read_cluster
from vmaccess.cli.failed import Failed

Json = dict[str, Any]

MARK = "vmaccess.dev"  # name of the extension that tells our entries in a merged file from others
_SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}


@dataclass(frozen=True, slots=True)
class Printed:
    """Standard output."""

    def check(self, config: Json) -> None:
        """Raise nothing: nothing can be in the way."""

    def write(self, config: Json) -> None:
        """Print it."""
        sys.stdout.write(_text(config))


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that holds nothing else. With `replace`, whatever has its name gives way: a link is replaced, not followed."""

    path: Path
    replace: bool

    def check(self, config: Json) -> None:  # noqa: ARG002 - as of all outputs
        """Raise Failed where the file could not be written."""
        _check_folder(self.path)
        if os.path.lexists(self.path) and not self.replace:
            raise Failed(f"{self.path} exists: name another file with --output, or replace it with --force")

    def write(self, config: Json) -> None:
        """Write it; raises Failed."""
        with _said_of(self.path):
            if self.replace:
                os.replace(_draft(self.path, _text(config), 0o600), self.path)
            else:
                _fill(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), self.path, _text(config))


@dataclass(frozen=True, slots=True)
class MergedFile:
    """Entries of a kubeconfig with others, which stay as they are. With `replace`, entries that we wrote before give way."""

    path: Path
    replace: bool

    def check(self, config: Json) -> None:
        """Raise Failed where the file could not be written, or something else has the names of our entries."""
        _check_folder(self.path)
        merged(self._read(), config, self.path, replace=self.replace)

    def write(self, config: Json) -> None:
        """Write it; raises Failed."""
        target = self.path.resolve()  # a link to where somebody keeps this file stays one
        with _said_of(self.path), _locked(target):
            text = _text(merged(self._read(), config, self.path, replace=self.replace))
            before = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
            os.replace(_draft(target, text, before & 0o600), target)

    def _read(self) -> Json:
        return load(self.path) if self.path.exists() else {}


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
        elif not _is_marked(same, field):
            raise Failed(
                f"{path} has another {field} {ours['name']!r}, which is not touched: give it another name, or write to a file "
                f"of its own"
            )
        elif not replace:
            raise Failed(f"{path} has a {field} {ours['name']!r} that was written before: replace it with --force")
        else:
            result[section] = [_marked(ours, field) if entry is same else entry for entry in theirs]
    return result | {"current-context": file.get("current-context") or config["current-context"]}


def _marked(entry: Json, field: str) -> Json:
    return entry | {field: entry[field] | {"extensions": [{"name": MARK, "extension": {"writtenBy": "kubectl vmaccess"}}]}}


def _is_marked(entry: Json, field: str) -> bool:
    extensions = (entry.get(field) or {}).get("extensions") or ()
    return any(isinstance(each, dict) and each.get("name") == MARK for each in extensions)


def _says_the_same(theirs: Json, ours: Json, path: Path) -> bool:
    fields = theirs.get("cluster") or {}
    if fields.get("insecure-skip-tls-verify"):
        return False
    return read_cluster("", fields, path.resolve().parent) == read_cluster("", ours["cluster"], path.parent)


def _text(config: Json) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=math.inf)


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


def _draft(path: Path, text: str, mode: int) -> Path:
    """A file beside `path` with the whole text, which nobody else can read."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.chmod(name, mode)
    _fill(handle, Path(name), text)
    return Path(name)


def _fill(handle: int, path: Path, text: str) -> None:
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold kubectl's own lock of a kubeconfig. Source: client-go tools/clientcmd/loader.go, lockFile."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError as error:
        raise Failed(f"another program is changing {path}: try again, and if none is, remove {lock}") from error
    try:
        yield
    finally:
        lock.unlink()
