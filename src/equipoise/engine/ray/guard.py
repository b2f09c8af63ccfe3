"""Ends what is left of a cluster when the process that started it is gone, however it went.

Some of Ray's own processes outlive a killed driver by a minute. This file is run as a process of its own, which needs
nothing but the standard library; its standard input is a pipe whose other end only that process holds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "EQUIPOISE_CLUSTER"  # in the environment of all processes of a cluster: its folder
# Looks of a tenth of a second each, and how many of them must find nothing before it is believed: a process that is
# just starting another program shows no environment for an instant.
TRIES, QUIET = 250, 10


def start(folder: str) -> subprocess.Popen[bytes]:
    """A guard of the processes that carry the mark of ``folder``; it begins when its standard input is closed."""
    command = [sys.executable, "-I", __file__, folder]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # Ctrl-C is not for it


def carrying(folder: str) -> list[int]:
    """Processes of the cluster of ``folder``; none where the system does not tell.

    They carry its mark, but one that gives itself a title writes over the beginning of its environment, and with it
    over the mark if that comes early. Such a one is known by its title and the logs it has open."""
    line, place = f"{MARK}={folder}".encode(), os.path.realpath(folder)
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if line in (path / "environ").read_bytes().split(b"\0") or (_titled(path) and _opened(path, place)):
                found.append(int(path.name))
    return found


def _titled(process: Path) -> bool:
    return (process / "cmdline").read_bytes().startswith(b"ray::")


def _opened(process: Path, folder: str) -> bool:
    """Whether it has a file of the folder open."""
    for file in (process / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith(folder + os.sep):
                return True
    return False


def end(folder: str) -> None:
    """Kill them all, and remove the folder."""
    quiet = 0
    for _ in range(TRIES):
        left = carrying(folder)
        quiet = 0 if left else quiet + 1
        if quiet == QUIET:
            break
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the other end is closed
    end(sys.argv[1])
