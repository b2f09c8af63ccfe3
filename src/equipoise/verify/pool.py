"""A pool of processes that can be killed. A call that outlives its deadline costs its process, never the run.

Each call judges a fixed number of items, whatever the number of workers, so results do not depend on it. A call that
fails is repeated item by item: only the guilty item is reported as "timeout" or "error".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from equipoise.errors import ArgumentError
from equipoise.verify.verdicts import Item, Verdict, error

Chunk = tuple[int, Sequence[Item]]  # place of the first item, the items


@dataclass(frozen=True)
class Settings:
    """``deadline_s``: of a call; ``start_s``: of starting a process and importing the user's module."""

    workers: int = 2
    deadline_s: float = 10.0
    start_s: float = 120.0
    items: int = 16  # per call
    patience: int = 10  # calls in a row over time after which the rest is given up: nobody waits hours for a hang


class _Worker:
    """One process, its pipe, and when its present call must be over (``time.monotonic`` seconds)."""

    def __init__(self, target: str, options: Mapping[str, Any], settings: Settings) -> None:
        self.pipe, theirs = Pipe()
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - what the user's code prints; explains a death
        self.process = subprocess.Popen(
            [sys.executable, "-m", "equipoise.verify.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C is not for it, and it dies with all its children
        )
        theirs.close()
        self.chunk: Chunk | None = None  # None while it loads the target
        self.until = time.monotonic() + settings.start_s
        self.ready = False
        self.pipe.send((target, dict(options), settings.start_s + 2, settings.deadline_s + 2))

    def ask(self, chunk: Chunk, deadline_s: float) -> None:
        self.said.seek(0)
        self.said.truncate()
        self.chunk, self.until = chunk, time.monotonic() + deadline_s
        self.pipe.send(list(chunk[1]))

    def reply(self) -> dict[str, Any]:
        """What it answered. A process that died is a fault with its last words."""
        try:
            answer: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError, ValueError):
            words = self._tail()
            self.end()
            return {"fault": f"its process ended ({_exit(self.process.returncode)}){words}", "dead": True}
        return answer

    def end(self) -> None:
        """Kill it and all that it started."""
        if self.process.returncode is not None:  # reaped: its number may be another's by now
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        self.pipe.close()
        self.said.close()

    def _tail(self) -> str:
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - 300))
        words = self.said.read().decode(errors="replace").split()
        return f"; its last words: {' '.join(words)}" if words else ""


class Pool:
    """``pool(items) -> [Verdict]``. Closed by ``close``, by ``with``, when forgotten, and when Python ends."""

    def __init__(self, target: str, options: Mapping[str, Any], settings: Settings | None = None) -> None:
        self._target, self._options = target, options
        self._settings = settings or Settings()
        self._workers: list[_Worker] = []
        self._turn = threading.Lock()
        self._late = 0  # calls over time since the last answer
        self.close = weakref.finalize(self, _end_all, self._workers, os.getpid())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Load the target in a process. Raises ArgumentError with what it said."""
        with self._turn:
            worker = self._start()
            fault = self._loaded(worker)
        if fault:
            raise ArgumentError(f"verifier {self._target!r} cannot be loaded: {fault}")

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order."""
        verdicts: list[Verdict | None] = [None] * len(items)
        size = self._settings.items
        waiting = deque((i, items[i : i + size]) for i in range(0, len(items), size))
        with self._turn:
            self._late = 0
            try:
                while waiting or self._busy():
                    self._hand_out(waiting)
                    self._collect(waiting, verdicts)
            except BaseException:  # Ctrl-C between a question and its answer: no worker may keep a stale answer
                _end_all(self._workers, os.getpid())
                raise
        return [v if v is not None else error("no verdict") for v in verdicts]

    def _start(self) -> _Worker:
        if not self.close.alive:
            raise RuntimeError("this verifier is closed")
        worker = _Worker(self._target, self._options, self._settings)
        self._workers.append(worker)
        return worker

    def _loaded(self, worker: _Worker) -> str:
        """Wait until a fresh worker has loaded the target; what went wrong, or nothing."""
        if worker.pipe.poll(max(0.0, worker.until - time.monotonic())):
            fault = str(worker.reply().get("fault", ""))
        else:
            fault = f"importing it took more than {self._settings.start_s:g} s"
        worker.ready = not fault
        if fault:
            self._drop(worker)
        return fault

    def _busy(self) -> list[_Worker]:
        return [w for w in self._workers if w.chunk is not None]

    def _hand_out(self, waiting: deque[Chunk]) -> None:
        while waiting and len(self._busy()) < self._settings.workers:
            idle = next((w for w in self._workers if w.chunk is None), None) or self._start()
            fault = "" if idle.ready else self._loaded(idle)
            if fault:
                raise ArgumentError(f"verifier {self._target!r} cannot be loaded: {fault}")
            try:
                idle.ask(waiting[0], self._settings.deadline_s)
            except OSError:  # it died while idle: another takes the call
                self._drop(idle)
                continue
            waiting.popleft()

    def _collect(self, waiting: deque[Chunk], verdicts: list[Verdict | None]) -> None:
        """Take the answers that are there, end the calls that are over time."""
        busy = self._busy()
        nearest = min(w.until for w in busy)
        answered = wait([w.pipe for w in busy], timeout=max(0.0, nearest - time.monotonic()))
        for worker in busy:
            if worker.pipe in answered:
                self._take(worker, waiting, verdicts)
            elif time.monotonic() >= worker.until:
                chunk = worker.chunk
                self._drop(worker)
                self._late += 1
                _failed(chunk, self._timeout("and was ended"), waiting, verdicts)
        if self._late >= self._settings.patience:
            while waiting:
                first, items = waiting.popleft()
                late = self._timeout(f"{self._late} times in a row, so this was not tried")
                verdicts[first : first + len(items)] = [late] * len(items)

    def _timeout(self, what: str) -> Verdict:
        return Verdict(0.0, "timeout", message=f"took more than {self._settings.deadline_s:g} s {what}")

    def _take(self, worker: _Worker, waiting: deque[Chunk], verdicts: list[Verdict | None]) -> None:
        chunk, worker.chunk = worker.chunk, None
        reply = worker.reply()
        if reply.get("dead"):
            self._drop(worker)
        if "fault" in reply:
            return _failed(chunk, error(str(reply["fault"])), waiting, verdicts)
        if chunk is not None:
            self._late = 0
            verdicts[chunk[0] : chunk[0] + len(chunk[1])] = [Verdict(**v) for v in reply["verdicts"]]
        return None

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)


def _failed(chunk: Chunk | None, why: Verdict, waiting: deque[Chunk], verdicts: list[Verdict | None]) -> None:
    """One item: that is its verdict. Several: each is tried by itself."""
    if chunk is None:
        return
    first, items = chunk
    if len(items) == 1:
        verdicts[first] = why
    else:
        waiting.extendleft((first + k, items[k : k + 1]) for k in reversed(range(len(items))))


def _end_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() != owner:  # a forked child inherits the list, not the processes
        return
    while workers:
        workers.pop().end()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
