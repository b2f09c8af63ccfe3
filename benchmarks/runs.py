"""Equipoise's side of a benchmark: a run as `equipoise train` makes it, with a clock and a scale beside it."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import equipoise.engine.local  # noqa: F401  # before memory is looked at: imports are not a run's memory
from equipoise.job.job import run_job
from equipoise.job.settings import EvalSettings, Settings, TestSettings
from workloads import SPARE, device_memory, memory

NEVER_S = 1e9


@dataclass
class Timed:
    """Of a run, a number a step, from the second step on (the first warms up).

    ``wall``: from the end of a step to the end of the next. ``laps``: the run's own timings, by purpose. ``resident``:
    MB at the end of each step, the first included. ``tokens``: of the prompts and responses of each step, the first
    included; a prompt counts with each of its responses. ``peak``: MB at the end of the last step.
    """

    wall: list[float] = field(default_factory=list)
    laps: dict[str, list[float]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    peak: float = 0.0
    base: float = 0.0

    def rest(self, *names: str) -> list[float]:
        """What each step took beyond these laps."""
        known = zip(*(self.laps[name] for name in names), strict=True)
        return [step - sum(parts) for step, parts in zip(self.wall, known, strict=True)]

    def sizes(self) -> dict[str, float]:
        return {"peak_mb": self.peak, "base_mb": self.base, "cuda_mb": device_memory()}


def settings(**given: Any) -> Settings:
    """A run that is trained and next to nothing else: no preflight, no evaluation on the way, a test of two items, no
    checkpoint between the first step and the last."""
    quiet: dict[str, Any] = {
        "preflight": False,
        "eval": EvalSettings(points=0),
        "test": TestSettings(items=2, samples=1, start=False),
        "checkpoint_s": NEVER_S,
    }
    return Settings(**quiet | given)


def write_rows(data: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A data file. The last ``SPARE`` rows are for the splits that nothing trains on: left open, these would take
    rows from training."""
    splits = ["train"] * (len(rows) - SPARE) + ["validation", "test"] * (SPARE // 2)
    lines = [json.dumps({**row, "split": split}) for row, split in zip(rows, splits, strict=True)]
    data.write_text("\n".join(lines) + "\n")


def timed(s: Settings) -> Timed:
    """Run, and keep its times; the run itself is removed."""
    found, ends = Timed(base=memory()[0]), []

    def report(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"]:
            ends.append(time.monotonic())
            now, found.peak = memory()
            found.resident.append(now)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_job(s.json(), out, report)
        steps = [line for line in _lines(out / "timings.jsonl") if line["step"] > 1]
        found.tokens = [_tokens(path) for path in sorted((out / "rollouts").glob("step-*.parquet"))]
        found.metrics = [line for line in _lines(out / "metrics.jsonl") if line["step"] > 0]
    found.wall = [after - before for before, after in itertools.pairwise(ends)]
    names = sorted({name for line in steps for name in line} - {"step"})
    found.laps = {name: [line.get(name, 0.0) for line in steps] for name in names}
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _tokens(rollouts: Path) -> int:
    rows = pq.read_table(rollouts, columns=["prompt_ids", "ids"])
    return sum(len(ids) for name in rows.column_names for ids in rows[name].to_pylist())
