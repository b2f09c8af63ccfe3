"""A trial: methods times seeds at equal budget, in parallel processes, then verdicts.

    out/trial.json      what was asked
    out/start/          the start model's evaluation
    out/<arm>-s<seed>/  one run directory a job
    out/errors/, logs/  tracebacks of failed jobs, and what workers printed
    out/result.json     arms, verdicts, failed jobs

Running the same trial again, or ``resume``, skips the jobs that have finished and goes on with the rest.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from equipoise.errors import ArgumentError, RecordError
from equipoise.record.folder import Folder, write_atomic
from equipoise.trial.result import START, conclude, finished, print_result, printable, run_folder
from equipoise.trial.workers import GRACE_S, SILENCE_S, Event, Job, run_jobs

RUN_JOB = "equipoise.job.job:run_job"
Place = Callable[[Sequence[Job], str, int, int, Path, Callable[[Event], None], float, float], bool]  # as run_jobs


@dataclass(frozen=True)
class ArmSpec:
    """One arm: a method and its arguments, under a name of its own (by default the method's)."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.method


@dataclass(frozen=True)
class TrialResult:
    """``result`` is the content of result.json; ``interrupted``: Ctrl-C came before all jobs had ended."""

    out: Path
    result: dict[str, Any]
    interrupted: bool


def trial(
    methods: Sequence[ArmSpec],
    task: str,
    model: str,
    seeds: Sequence[int],
    budget: Mapping[str, float],
    out: Path,
    jobs: int = 2,
    *,
    options: Mapping[str, Any] | None = None,
    metric: str | None = None,
    run_job: str = RUN_JOB,
    console: Console | None = None,
    grace_s: float = GRACE_S,
    silence_s: float = SILENCE_S,
    place: Place = run_jobs,
) -> TrialResult:
    """Run every method with every seed at the same ``budget``, ``jobs`` at a time, and conclude.

    ``run_job`` (as "module:function") is called in a worker with a spec, a run directory and a function that takes
    progress. Specs: {"method", "arguments", "seed", "task", "model", "budget", **options, "threads"}, and the same with
    {"kind": "start"} for the start model's test, which takes the first arm's. Threads are the cores divided by ``jobs``
    unless the options name them, and stay what they were in a resume. A directory that holds the same trial is gone on
    with; any other one is a RecordError. Raises ArgumentError for arms or seeds that make no trial, and what
    ``conclude`` raises.
    """
    settings = {
        "task": task,
        "model": model,
        "budget": dict(budget),
        "arms": {arm.label: {"method": arm.method, "arguments": dict(arm.arguments)} for arm in methods},
        "seeds": list(seeds),
        "options": dict(options or {}),
        "metric": metric,
        "run_job": run_job,
        "threads": (options or {}).get("threads") or max(1, _cores() // max(jobs, 1)),
    }
    _check(methods, seeds, jobs)
    with Folder(out).locked():
        settings = _claim(out, settings)
        return _run(out, settings, jobs, console or Console(), grace_s, silence_s, place)


def resume(
    out: Path,
    jobs: int = 2,
    *,
    console: Console | None = None,
    grace_s: float = GRACE_S,
    silence_s: float = SILENCE_S,
    place: Place = run_jobs,
) -> TrialResult:
    """Go on with the trial in ``out``: finished jobs are skipped. Raises RecordError when there is no trial."""
    settings = read_settings(out)
    with Folder(out).locked():
        return _run(out, settings, jobs, console or Console(), grace_s, silence_s, place)


def on_ray(address: str | None) -> Place:
    """Jobs as tasks of the Ray cluster at ``address``; None: of one that is started for them. Raises MissingExtra."""
    from equipoise.engine import ray

    ray.require()

    def place(
        jobs: Sequence[Job],
        run_job: str,
        workers: int,
        threads: int,
        logs: Path,
        on_event: Callable[[Event], None],
        grace_s: float,
        silence_s: float,
    ) -> bool:
        from equipoise.engine.ray.jobs import run_jobs as run

        def hear(name: str, news: Mapping[str, Any]) -> None:
            on_event(Event(name, **news))

        plain = [(job.name, job.spec, job.out) for job in jobs]
        limits = {"grace_s": grace_s, "silence_s": silence_s}
        return run(plain, run_job, workers, threads, logs, hear, address=address, **limits)

    return place


def is_trial(folder: Path) -> bool:
    """Whether a directory is a trial's."""
    return (folder / "trial.json").is_file()


def read_settings(out: Path) -> dict[str, Any]:
    """What was asked of the trial in ``out``. Raises RecordError when there is none or it is damaged."""
    path = out / "trial.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RecordError(f"{out} is no trial: it has no trial.json") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    return found


def _check(methods: Sequence[ArmSpec], seeds: Sequence[int], jobs: int) -> None:
    labels = [arm.label for arm in methods]
    twice = [name for name, n in Counter(labels).items() if n > 1]
    odd = [
        name for name in labels if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) or name in (START, "errors", "logs")
    ]
    if not methods or not seeds or len(set(seeds)) != len(seeds):
        raise ArgumentError(f"a trial needs methods and different seeds, got {labels} and seeds {list(seeds)}")
    if twice or odd:
        raise ArgumentError(
            f"arms need names of their own, of letters, digits, '_', '.', '+', '-': got {[*twice, *odd]} in {labels}"
        )
    if jobs < 1:
        raise ArgumentError(f"--jobs is {jobs}; expected at least 1")


def _claim(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write trial.json, or see that the one there asks for the same; returns the one there."""
    path = out / "trial.json"
    if path.exists():
        old = read_settings(out)
        asked = json.loads(json.dumps(settings)) | {"threads": old["threads"]}
        changed = sorted(k for k in {*old, *asked} if old.get(k) != asked.get(k))
        if changed:
            raise RecordError(
                f"{out} holds another trial: {', '.join(changed)} differ. Choose another --out, or go on with that "
                f"one by `equipoise resume {out}`"
            )
        return old
    if any(entry.name != ".lock" for entry in out.iterdir()):
        raise RecordError(f"{out} is not empty and holds no trial; choose another --out")
    write_atomic(path, (json.dumps(settings, indent=2) + "\n").encode())
    return settings


def _run(
    out: Path,
    settings: Mapping[str, Any],
    jobs: int,
    console: Console,
    grace_s: float,
    silence_s: float,
    place: Place,
) -> TrialResult:
    every = _jobs(out, settings)
    todo = {job.name: job for job in every if not finished(job.out)}
    failed: dict[str, str] = {}
    with _Board(console, len(every), len(every) - len(todo)) as board:

        def on_event(event: Event) -> None:
            event = _checked(event, todo)
            if event.status == "failed":
                failed[event.job] = event.reason
                _write_error(out, event)
            board.show(event)

        interrupted = place(
            list(todo.values()),
            settings["run_job"],
            jobs,
            settings["threads"],
            out / "logs",
            on_event,
            grace_s,
            silence_s,
        )
    missing = [{"method": todo[k].arm, "seed": todo[k].seed, "reason": reason} for k, reason in failed.items()]
    result = conclude(settings, out, missing, settings["metric"])
    write_atomic(out / "result.json", (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    print_result(result, console)
    if interrupted:
        console.print(f"stopped before all jobs had ended; go on with: equipoise resume {out}", highlight=False)
    return TrialResult(out, result, interrupted)


def _jobs(out: Path, settings: Mapping[str, Any]) -> list[Job]:
    """The start model's test, then seed by seed every arm, so that an early stop leaves whole seeds."""
    shared = {name: settings[name] for name in ("task", "model", "budget")} | settings["options"]
    shared |= {"threads": settings["threads"]}
    first = next(iter(settings["arms"].values())) | {"seed": settings["seeds"][0]}
    jobs = [Job(START, {**shared, **first, "kind": "start"}, out / START, START)]
    for seed in settings["seeds"]:
        for name, arm in settings["arms"].items():
            folder = run_folder(out, name, seed)
            jobs.append(Job(folder.name, {**shared, **arm, "seed": seed}, folder, name, seed))
    return jobs


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(event: Event, jobs: Mapping[str, Job]) -> Event:
    """What a job left decides: "done" without a result is a failure, an interrupted one may have finished."""
    if event.status not in ("done", "interrupted"):
        return event
    if finished(jobs[event.job].out):
        return Event(event.job, status="done")
    if event.status == "interrupted":
        return event
    return Event(event.job, status="failed", reason=f"it ended without a final result in {jobs[event.job].out}")


def _write_error(out: Path, event: Event) -> None:
    folder = out / "errors"
    folder.mkdir(exist_ok=True)
    (folder / f"{event.job}.txt").write_text(f"{event.reason}\n\n{event.detail}")


class _Board:
    """Progress of the jobs: bars in a terminal, a line for each job's end elsewhere."""

    def __init__(self, console: Console, jobs: int, before: int) -> None:
        self.console = console
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        note = f"{before} of {jobs} jobs had finished before" if before else ""
        self.whole = self.progress.add_task("all jobs", total=jobs, completed=before, note=note)

    def __enter__(self) -> _Board:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        if event.job not in self.bars:
            self.bars[event.job] = self.progress.add_task(event.job, total=1.0, note="")
        bar = self.bars[event.job]
        if event.progress is not None:
            done = event.progress.get("fraction")
            self.progress.update(bar, completed=None if done is None else float(done), note=_note(event.progress))
            return
        self.progress.update(bar, visible=False)
        if event.status != "interrupted":
            self.progress.advance(self.whole)
        said = f"{event.job}: {event.status} {event.reason}".rstrip()
        self.console.print(printable(said), markup=False, highlight=False)


def _note(progress: Mapping[str, Any]) -> str:
    """What a job says of itself, in brief: a step with its reward, a share of the test, or words."""
    if "text" in progress:
        return printable(str(progress["text"]))
    if "done" in progress:
        return f"{progress.get('event', 'done')} {progress['done']} of {progress['total']}"
    names = {"step": "step", "reward": "reward", "eval/pass@1": "validation", "loss": "loss"}
    shown = {label: progress[name] for name, label in names.items() if progress.get(name) is not None}
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
