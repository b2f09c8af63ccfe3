"""Before and after a run, for people: what changed in the answers, and at what price. Prints Markdown.

    python scripts/before_after.py runs/instruct [--samples 20]

Pass rate per part of the score, mean log-probability of the answers under the start model (how far the policy went),
and unselected samples: the first response to each of the first test prompts, from the start model and the trained one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from equipoise import tasks
from equipoise.engine.local import deterministic, load
from equipoise.job.job import saved
from equipoise.protocols import Engine
from equipoise.types import Group, Task


def table(run: Path) -> list[str]:
    """Every test metric of both models with its interval."""
    final = json.loads((run / "final.json").read_text())
    lines = ["| test metric | start | trained |", "|---|---|---|"]
    for name, after in sorted(final["test"]["metrics"].items()):
        before = final["start"]["metrics"].get(name)
        lines.append(f"| {name} | {_shown(before)} | {_shown(after)} |")
    return lines


def _shown(e: dict[str, float] | None) -> str:
    return "" if e is None else f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"


def surprise(engine: Engine, task: Task, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean log-probability under ``engine``'s model of the answers that ended: nats a response, nats a token."""
    prompts = {p.id: engine.encode(p) for p in task.splits["test"][: len({r["item"] for r in rows})]}
    groups = [
        Group(prompts[r["item"]], (engine.encode_reply(prompts[r["item"]], r["text"], "answer"),))
        for r in rows
        if not r["truncated"] and r["text"].strip()
    ]
    total = [float(out["logp"][0].sum()) for out in engine.outputs(groups, ["logp"])]
    tokens = sum(int(g.responses[0].trained.sum()) for g in groups)
    return sum(total) / len(total), sum(total) / tokens


def samples(before: list[dict[str, Any]], after: list[dict[str, Any]], n: int) -> list[str]:
    """The first response to each of the first ``n`` prompts."""
    lines = ["| prompt | start | trained |", "|---|---|---|"]
    old = {r["item"]: r for r in before if r["sample"] == 0}
    for new in [r for r in after if r["sample"] == 0][:n]:
        cells = [_cell(new["prompt"]), *(f"{_mark(r)} {_cell(r['text'])}" for r in (old[new["item"]], new))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _mark(row: dict[str, Any]) -> str:
    return "**right**" if row["right"] else "wrong"


def _cell(text: str) -> str:
    printable = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return printable.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", "<br>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=20)
    asked = parser.parse_args()
    settings = saved(asked.run)
    deterministic(None)
    task, engine = tasks.load(settings.task, **settings.knobs), load(settings.model)
    before, after = (
        pq.read_table(asked.run / "evaluation" / f"{name}.parquet").to_pylist() for name in ("start", "test")
    )
    print("\n".join(table(asked.run)), "\n")
    for name, rows in (("start", before), ("trained", after)):
        response, token = surprise(engine, task, rows)
        print(f"- {name}: mean log-prob of the answers under the start model {response:.1f} nats ({token:.2f} a token)")
    print("\n" + "\n".join(samples(before, after, asked.samples)))


if __name__ == "__main__":
    main()
