"""Processes of a test, as the system sees them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def busy(what: str) -> list[int]:
    """Actors of this process's cluster that are in a method, such as "Sampler.sample"."""
    return [pid for pid in descendants(os.getpid()) if _title(pid).startswith(f"ray::{what}")]


def strike(what: str, sign: signal.Signals = signal.SIGKILL, seconds: float = 100.0) -> int:
    """Send a signal to the first actor that is found in a method; its process id."""
    pid = until(lambda: busy(what), seconds)[0]
    os.kill(pid, sign)
    return int(pid)


def until(found: Callable[[], list[Any]], seconds: float) -> list[Any]:
    """What is found, as soon as there is something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.005)
    return result


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(path.name))
    found, front = [], [pid]
    while front:
        front = [child for one in front for child in children.get(one, [])]
        found += front
    return found


def marked(text: str) -> list[int]:
    """Processes whose environment has the line ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
