"""Worker processes that run jobs: started once, one job at a time each, watched by the parent.

Each worker has a pipe of its own, so one that dies harms no other, and a process group of its own, so that Ctrl-C in
the terminal reaches the parent only; the parent passes it on once. What a worker prints goes to a log file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

from equipoise.errors import ArgumentError, EquipoiseError

RunJob = Callable[[Mapping[str, Any], Path, Callable[[Mapping[str, Any]], None]], None]
Status = Literal["done", "failed", "interrupted"]

GRACE_S = 60.0  # for a job to finish its step after Ctrl-C
SILENCE_S = 3600.0  # a job that reports nothing for so long has failed
STARTUP_S = 120.0  # more than that for a new worker, which has yet to load its libraries


@dataclass(frozen=True)
class Job:
    """``run_job(spec, out, report)`` in a worker; ``name`` is the run directory's."""

    name: str
    spec: Mapping[str, Any]
    out: Path
    arm: str
    seed: int | None = None


@dataclass(frozen=True)
class Event:
    """What a worker says of a job: its progress, or how it ended (``reason`` and ``detail`` when it failed)."""

    job: str
    progress: Mapping[str, Any] | None = None
    status: Status | None = None
    reason: str = ""
    detail: str = ""


@dataclass
class Worker:
    process: SpawnProcess
    pipe: Connection
    log: Path
    job: Job | None = None
    heard: float = field(default_factory=time.monotonic)


def run_jobs(
    jobs: Sequence[Job],
    run_job: str,
    workers: int,
    threads: int,
    logs: Path,
    on_event: Callable[[Event], None],
    grace_s: float = GRACE_S,
    silence_s: float = SILENCE_S,
) -> bool:
    """Run every job; each end is an event. True when Ctrl-C stopped the work before all were done.

    ``run_job`` is "package.module:function". A job that raises, a worker that dies and one that says nothing for
    ``silence_s`` are failed jobs; the others go on.
    """
    pending = deque(jobs)
    crew: list[Worker] = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while pending or any(w.job for w in crew):
            _give(pending, crew, workers, lambda k: _start(run_job, threads, logs / f"worker-{k}.txt"))
            _listen(crew, on_event, silence_s)
    except KeyboardInterrupt:
        _interrupt(crew, on_event, grace_s)
        return True
    finally:
        _release(crew)
    return False


def _give(pending: deque[Job], crew: list[Worker], most: int, start: Callable[[int], Worker]) -> None:
    while pending:
        idle = next((w for w in crew if w.job is None), None)
        if idle is None and len(crew) >= most:
            return
        patience = 0.0
        if idle is None:
            crew.append(idle := start(len(crew)))
            patience = STARTUP_S
        idle.job, idle.heard = pending.popleft(), time.monotonic() + patience
        with suppress(OSError):  # it has died meanwhile: _listen finds out and says so
            idle.pipe.send(idle.job)


def _listen(crew: list[Worker], on_event: Callable[[Event], None], silence_s: float) -> None:
    """Pass on what the workers say within half a second; drop those that have died or gone silent."""
    ends: list[Any] = [end for w in crew for end in (w.pipe, w.process.sentinel)]
    wait(ends, timeout=0.5)
    for worker in list(crew):
        alive = _hear(worker, on_event)
        silent = worker.job is not None and time.monotonic() - worker.heard > silence_s
        if alive and not silent:
            continue
        crew.remove(worker)
        if silent:
            worker.process.kill()
        worker.process.join(timeout=10)
        if worker.job is not None:
            what = f"said nothing for {silence_s:.0f} s" if silent else _death(worker.process.exitcode)
            on_event(Event(worker.job.name, status="failed", reason=f"its worker {what}; its log is {worker.log}"))
        worker.pipe.close()


def _hear(worker: Worker, on_event: Callable[[Event], None]) -> bool:
    """Pass on what is waiting in the pipe. False when the worker has gone."""
    gone = not worker.process.is_alive()  # asked before reading, so that its last words are read
    try:
        while worker.pipe.poll():
            event: Event = worker.pipe.recv()
            worker.heard = time.monotonic()
            if event.status is not None:
                worker.job = None
            on_event(event)
    except (EOFError, OSError):
        return False
    return not gone


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        names = {s.value: s.name for s in signal.Signals}
        memory = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"was killed by {names.get(-code, f'signal {-code}')}{memory}"
    return f"ended with exit status {code}"


def _interrupt(crew: list[Worker], on_event: Callable[[Event], None], grace_s: float) -> None:
    """Pass Ctrl-C on to the jobs, and wait for them to finish their step. A second Ctrl-C stops the waiting."""
    deadline = time.monotonic() + grace_s
    for worker in crew:
        if worker.job is not None and worker.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGINT)
    with suppress(KeyboardInterrupt):
        while any(w.job for w in crew) and time.monotonic() < deadline:
            _listen(crew, lambda event: on_event(_as_interrupted(event)), silence_s=float("inf"))


def _as_interrupted(event: Event) -> Event:
    """A job that returns after Ctrl-C need not have finished; whoever listens looks at what it left."""
    return replace(event, status="interrupted") if event.status == "done" else event


def _release(crew: list[Worker]) -> None:
    """End every worker: idle ones by request, busy ones by force."""
    for worker in crew:
        with suppress(OSError):
            worker.pipe.send(None)
        if worker.job is not None:
            worker.process.terminate()
    for worker in crew:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(timeout=5)
        worker.pipe.close()


def _start(run_job: str, threads: int, log: Path) -> Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, run_job, log), name=f"equipoise {log.stem}")
    with _environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false"):
        process.start()
    theirs.close()
    return Worker(process, ours, log)


class _environment:  # noqa: N801 - reads as a function
    """Variables that a process started inside the block finds set; numerical libraries read them when they load."""

    def __init__(self, **values: object) -> None:
        self.values = {k: str(v) for k, v in values.items()}

    def __enter__(self) -> None:
        self.old = {k: os.environ.get(k) for k in self.values}
        os.environ.update(self.values)

    def __exit__(self, *_: object) -> None:
        for k, v in self.old.items():
            if v is None:
                del os.environ[k]
            else:
                os.environ[k] = v


def load(name: str) -> RunJob:
    """The function called "package.module:function". Raises ArgumentError when there is none."""
    module, _, function = name.partition(":")
    try:
        found: RunJob = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"no job function {name!r} (expected 'package.module:function'): {error}") from error
    return found


def _work(pipe: Connection, run_job: str, log: Path) -> None:
    """The worker's life: take a job, run it, say how it ended; until the parent says None or is gone."""
    os.setpgrp()
    _print_to(log)
    try:
        while (job := pipe.recv()) is not None:
            pipe.send(_attempt(pipe, run_job, job))
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the parent has gone, or stops everything while this worker is idle


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)


def _attempt(pipe: Connection, run_job: str, job: Job) -> Event:
    outbox: deque[Event] = deque()
    sending = False

    def report(progress: Mapping[str, Any]) -> None:
        nonlocal sending
        outbox.append(Event(job.name, progress=dict(progress)))
        if sending:  # called by a signal handler in the middle of a send: the send goes first
            return
        sending = True
        try:
            while outbox:
                pipe.send(outbox.popleft())
        except OSError:  # the parent has gone: stop as if by Ctrl-C, so that a resume finds a checkpoint
            signal.raise_signal(signal.SIGINT)
        finally:
            sending = False

    try:
        run = load(run_job)
        report({})  # the worker is up
        run(job.spec, job.out, report)
    except KeyboardInterrupt:
        return Event(job.name, status="interrupted")
    except EquipoiseError as error:
        return Event(job.name, status="failed", reason=str(error), detail=traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - named boundary: one arm's failure must not stop the others
        reason = f"{type(error).__name__}: {error}"
        return Event(job.name, status="failed", reason=reason, detail=traceback.format_exc())
    return Event(job.name, status="done")
