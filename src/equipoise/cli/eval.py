"""equipoise eval DIR_OR_MODEL --task T: a held-out evaluation with intervals."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.cli import options
from equipoise.cli.options import Flag


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("model", str, help="a run directory, a shipped name, a local folder, or a Hub id", positional=True),
        Flag("task", str, help="a task of `equipoise tasks`, reasoning_gym:<name>, or file:<path>"),
        Flag("k", tuple[int, ...], (1, 8), "of pass@k and maj@k"),
        Flag("split", str, "test"),
        Flag("items", int, 200),
        Flag("samples", int | None, None, "an item (default: the largest k)"),
        Flag("seed", int, 0),
        Flag("device", str, "auto"),
        Flag("dtype", str, "auto"),
        Flag("threads", int | None, None),
        Flag("json", bool, False, "print JSON"),
        *options.of_task(args),
    ]
    v = options.parse("equipoise eval", "Evaluate on fixed held-out items, at temperature 1.", flags, args)
    from equipoise.cli import show

    with show.Board(sys.stderr) as board:
        found = evaluate(v, board)
    if v["json"]:
        print(json.dumps(found))
        return 0
    from rich.console import Console
    from rich.table import Table

    title = f"{v['model']} on {found['task']}, {found['items']} {found['split']} items x {found['samples']} samples"
    table = Table("metric", "value [95% interval]", title=title)
    for name, value in found["metrics"].items():
        table.add_row(name, show.estimate(value))
    Console().print(table)
    return 0


def evaluate(v: dict[str, Any], board: Any) -> dict[str, Any]:
    """The JSON contract of an evaluation."""
    from equipoise import tasks
    from equipoise.engine.local import deterministic, load
    from equipoise.evaluate import evaluate as measure
    from equipoise.evaluate import shortfall
    from equipoise.job.finished import opened
    from equipoise.job.job import fitted
    from equipoise.job.settings import Settings
    from equipoise.keys import Key
    from equipoise.tasks.progress import heard_by

    deterministic(v["threads"])
    knobs = options.under(v, "task")
    with heard_by(board.hear):
        task = tasks.load(v["task"], **knobs)
    try:
        where, run = {"device": v["device"], "dtype": v["dtype"]}, Path(v["model"])
        ran = (run / "run.toml").exists()
        engine, adjust = opened(run, task, **where) if ran else (load(v["model"], **where), None)
        with heard_by(board.hear):
            task = fitted(task, engine, Settings("eval", v["task"], v["model"], knobs=knobs))
        if (short := shortfall(task, v["split"], v["items"])) is not None:
            board.say(short)
        found = measure(
            engine,
            task,
            v["split"],
            v["items"],
            v["samples"] or max(v["k"]),
            Key((v["seed"], v["split"])),
            ks=v["k"],
            adjust=adjust,
            on_progress=lambda done, total: board.hear({"event": "test", "done": done, "total": total}),
        )
    finally:
        if task.close is not None:
            task.close()
    return found.json()


def model_of(name: str) -> str:
    """A run directory's model, or the name itself."""
    path = Path(name)
    return str(path / "model") if (path / "run.toml").exists() else name
