"""The audit log is read while kube-apiserver writes it."""

import io

from localcluster.audit import whole_lines


class BeingWritten(io.RawIOBase):
    """A file of which each read finds a part more, as when another process writes it; b"" is its end for the moment."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer cannot be written to
        part = self._parts.pop(0) if self._parts else b""
        buffer[: len(part)] = part
        return len(part)


def test_the_rest_of_a_line_is_no_line() -> None:
    log = io.BufferedReader(BeingWritten(b'{"a": 1}\n{"b"', b"", b": 2}\n", b""))
    assert list(whole_lines(log)) == [b'{"a": 1}\n']


def test_lines_that_come_in_parts_are_whole() -> None:
    log = io.BufferedReader(BeingWritten(b'{"a": 1}\n{"b"', b": 2}\n", b""))
    assert list(whole_lines(log)) == [b'{"a": 1}\n', b'{"b": 2}\n']
