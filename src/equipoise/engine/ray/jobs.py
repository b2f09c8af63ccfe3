"""Jobs as tasks of a cluster: each takes processors as they come free, on whatever machine they are.

A job is plain data and ends in a folder that every machine must see. What it says on the way goes into a file beside
the logs, which is read here: so a job that says nothing for long is noticed, wherever it is.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from equipoise.engine.ray.cluster import OPENING_S, Cluster
from equipoise.errors import EquipoiseError
from ray import exceptions as failures

EVERY_S = 0.5  # what jobs say is read
Hear = Callable[[str, Mapping[str, Any]], None]


@dataclass
class _Running:
    name: str
    news: Path
    read: int = 0  # bytes of it
    heard: float = field(default_factory=lambda: time.monotonic() + OPENING_S)  # that long to start


def run_jobs(
    jobs: Sequence[tuple[str, Mapping[str, Any], Path]],
    run_job: str,
    at_once: int,
    threads: int,
    logs: Path,
    hear: Hear,
    *,
    address: str | None,
    grace_s: float,
    silence_s: float,
) -> bool:
    """``run_job(spec, out, report)``, called "package.module:function", for every (name, spec, out).

    ``hear(name, news)``: {"progress": ...}, and at the end {"status", "reason", "detail"} with status "done", "failed"
    or "interrupted". ``at_once``: jobs at a time, each with ``threads`` processors. A job that raises, whose process
    dies, or that says nothing for ``silence_s`` has failed; the others go on. True when Ctrl-C stopped the work: then
    jobs finish their step, for at most ``grace_s``.
    """
    logs.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(address, threads * (1 if address else at_once), silence_s)  # there, jobs may wait for processors
    crew = _Crew(run_job, threads, logs.resolve(), hear)
    try:
        pending = list(jobs)
        while pending or crew.running:
            while pending and len(crew.running) < at_once:
                crew.start(*pending.pop(0))
            crew.listen(silence_s)
    except KeyboardInterrupt:
        crew.interrupt(grace_s)
        return True
    finally:
        crew.end()
        cluster.close()
    return False


class _Crew:
    """Jobs under way."""

    def __init__(self, run_job: str, threads: int, logs: Path, hear: Hear) -> None:
        variables = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._attempt = ray.remote(num_cpus=threads, max_retries=0, runtime_env={"env_vars": variables})(attempt)
        self._run_job, self._logs, self._hear = run_job, logs, hear
        self.running: dict[Any, _Running] = {}
        self.stopping = False

    def start(self, name: str, spec: Mapping[str, Any], out: Path) -> None:
        news = self._logs / f"{name}.jsonl"
        news.write_bytes(b"")
        ref = self._attempt.remote(self._run_job, dict(spec), str(out.resolve()), str(news), sys.path)
        self.running[ref] = _Running(name, news)

    def listen(self, silence_s: float) -> None:
        """Pass on what jobs said, and how those ended that have."""
        done, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=EVERY_S)
        for ref, job in list(self.running.items()):
            self._tell(job)
            if ref in done:
                del self.running[ref]
                self._hear(job.name, self._ended(ref))
            elif time.monotonic() - job.heard > silence_s:
                del self.running[ref]
                ray.cancel(ref, force=True)
                self._hear(job.name, {"status": "failed", "reason": f"it said nothing for {silence_s:.0f} s"})

    def _tell(self, job: _Running) -> None:
        with job.news.open("rb") as file:
            file.seek(job.read)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # the rest of it is on its way
                job.read, job.heard = job.read + len(line), time.monotonic()
                self._hear(job.name, {"progress": json.loads(line)})

    def _ended(self, ref: Any) -> dict[str, str]:
        try:
            found: dict[str, str] = ray.get(ref, timeout=EVERY_S)
        except failures.TaskCancelledError:
            return {"status": "interrupted"}
        except failures.RayError as lost:
            return {"status": "failed", "reason": f"its process was lost: {lost}"}
        # After Ctrl-C a job that returns need not have finished: whoever listens looks at what it left.
        return {"status": "interrupted"} if self.stopping and found["status"] == "done" else found

    def interrupt(self, grace_s: float) -> None:
        """Pass Ctrl-C on, and wait for the jobs to finish their step. A second Ctrl-C stops the waiting."""
        self.stopping = True
        for ref in self.running:
            ray.cancel(ref)
        end = time.monotonic() + grace_s
        try:
            while self.running and time.monotonic() < end:
                self.listen(grace_s)
        except KeyboardInterrupt:
            return

    def end(self) -> None:
        for ref in self.running:
            ray.cancel(ref, force=True)


def attempt(run_job: str, spec: Mapping[str, Any], out: str, news: str, path: Sequence[str]) -> dict[str, str]:
    """The task: run a job and say how it ended. ``path``: where else modules may be found."""
    sys.path += [place for place in path if place not in sys.path]
    module, _, function = run_job.partition(":")
    with open(news, "a", buffering=1) as file:

        def report(progress: Mapping[str, Any]) -> None:
            file.write(json.dumps(dict(progress)) + "\n")

        try:
            report({})  # it is up
            getattr(import_module(module), function)(spec, Path(out), report)
        except KeyboardInterrupt:
            return {"status": "interrupted"}
        except EquipoiseError as error:
            return {"status": "failed", "reason": str(error), "detail": traceback.format_exc()}
        except Exception as error:  # noqa: BLE001 - named boundary: one arm's failure must not stop the others
            reason = f"{type(error).__name__}: {error}"
            return {"status": "failed", "reason": reason, "detail": traceback.format_exc()}
    return {"status": "done"}
