"""Kills the components of a local cluster when the process that started them is gone, however it went.

A process of its own, because a killed parent cannot clean up, and because the kernel's parent-death signal comes when
the starting *thread* ends, which a test's thread pool may do early. It reads `+pid` and `-pid` lines (process groups)
on its standard input; the end of that input is the parent's end. Run by path, with nothing but the standard library.
"""

import contextlib
import os
import shutil
import signal
import sys


def main(directory: str) -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            groups.add(pid)
        else:
            groups.discard(pid)
    for pid in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
