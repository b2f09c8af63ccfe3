"""What people see of a run in the terminal: progress, the plan, the outcome. Model output is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from equipoise.budget import amounts, show
from equipoise.job.costs import largest_step
from equipoise.job.engines import processes
from equipoise.job.job import Prepared
from equipoise.recipe import policies
from equipoise.types import Estimate

UNITS = {"generated_tokens": "generated tokens", "trained_tokens": "trained tokens", "flops": "FLOPs", "usd": "USD"}


def printable(text: str) -> str:
    """Text without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def clean(text: str) -> str:
    """Text that rich prints as it is: no control characters, no markup."""
    return escape(printable(text))


def estimate(e: Mapping[str, float] | Estimate) -> str:
    """value [low, high]"""
    v = (e.value, e.low, e.high) if isinstance(e, Estimate) else (e["value"], e["low"], e["high"])
    return f"{v[0]:.3g} [{v[1]:.3g}, {v[2]:.3g}]"


class Board:
    """A progress bar over the budget, with the newest numbers; what is said scrolls above it."""

    def __init__(self, stream: IO[str]) -> None:
        self.console = Console(file=stream)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
        )
        self.bars: dict[str, Any] = {}

    def __enter__(self) -> Board:
        self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(clean(text), highlight=False, soft_wrap=True)  # a path can be copied whole

    def hear(self, event: Mapping[str, Any]) -> None:
        """An event of a run: say, reading, step or test."""
        if event["event"] in ("say", "alarm"):
            self.say(event["text"])
        elif event["event"] == "reading":
            self._move(event["what"], event["done"], event["total"], "")
        elif event["event"] == "test":
            self._move(f"test, {event['of']}" if "of" in event else "test", event["done"], event["total"], "")
        else:
            shown = {"reward": "reward", "nll": "nll", "eval/pass@1": "validation", "mismatch_max": "mismatch"}
            numbers = "  ".join(f"{label} {event[name]:.3g}" for name, label in shown.items() if name in event)
            self._move("budget", event["fraction"], 1.0, f"step {event['step']}  {numbers}")

    def _move(self, name: str, done: float, total: float, numbers: str) -> None:
        if name not in self.bars or self.progress.tasks[self.bars[name]].completed > done:
            self.bars[name] = self.progress.add_task(name, total=total, numbers="")
        self.progress.update(self.bars[name], completed=done, numbers=numbers)


def plan(p: Prepared, out: Path) -> None:
    """The resolved table of a run: sizes, objectives with their denominators, learning rates, budget, predictions."""
    s, info, console = p.settings, p.engine.info, Console()
    table = Table(title=f"{p.recipe.name} on {s.task} with {s.model} (dry run: nothing is run)", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    splits = ", ".join(f"{name} {len(split):,}" for name, split in p.task.splits.items())
    table.add_row("task", f"{p.task.summary} Prompts: {splits}. Responses of at most {p.task.max_new_tokens} tokens.")
    table.add_row("model", f"{info.parameters:,} parameters, {info.trainable:,} trained, {info.dtype} on {info.device}")
    if s.cluster is not None:
        table.add_row("processes", f"{processes(s)}; of the Ray cluster {s.cluster.ray_address or 'that is started'}")
    table.add_row("budget", str(p.budget) + ("" if s.budget.limits() else "   (the recipe's own: none was given)"))
    table.add_row("optimiser", str(s.optimiser))
    for stage in p.recipe.stages:
        table.add_section()
        lr = f"learning rate {stage.lr.resolve(info):.3g}, {stage.lr.name}"
        table.add_row(f"stage {stage.name}", f"until {stage.until:.0%} of the budget; {lr}")
        for event in stage.events:
            table.add_row("  after steps", escape(str(event)))
        for stream in stage.streams:
            sizes = ", ".join(f"{n:,} {what}" for what, n in stream.source.sizes.items())
            table.add_row("  each step", escape(f"{' > '.join(x.name for x in stream.parts)}   ({sizes})"))
            if stream.objective is None:
                table.add_row("  objective", f"none; responses are kept in the store {stream.store!r}")
                continue
            u = stream.updates
            table.add_row("  objective", escape(stream.objective.formula))
            table.add_row("  divided by", escape(stream.objective.denominator))
            table.add_row("  updates", f"{u.epochs} epochs x {u.minibatches} minibatches a step")
    table.add_section()
    for row in _predicted(p):
        table.add_row(*row)
    table.add_row("writes to", escape(str(out)))
    console.print(table)


def _predicted(p: Prepared) -> list[tuple[str, str]]:
    """Most that a step and the whole may cost, memory and disk: bounds and rough sizes, not measurements."""
    info, s = p.engine.info, p.settings
    rows = []
    for stage in p.recipe.stages:
        for stream in stage.streams:
            most = amounts(largest_step(stream, p.task, p.engine), s.prices)
            text = ", ".join(f"{show(most[u])} {name}" for u, name in UNITS.items() if most[u])
            rows.append((f"a step of {stage.name}", f"at most about {text}"))
    evaluations = amounts(p.evaluation, s.prices)
    each = f"at most {show(evaluations['flops'])} FLOPs, {show(evaluations['generated_tokens'])} generated tokens each"
    items = {name: f"{n:,} {name} items" for name, n in p.items.items()}
    if p.points:
        text = f"{p.points} on {items['validation']} x {s.eval.samples} samples, charged; {each}"
        rows.append(("evaluations", text))
    rows.append(("final test", f"{items['test']} x {s.test.samples} samples, not charged"))
    weights, trained = 4 * info.parameters, 4 * info.trainable
    snapshots = len(policies(p.recipe.needs) | ({"base"} if any(x.restart for x in p.recipe.stages) else set()))
    memory = weights + trained * (3 + snapshots)  # weights; gradient and two moments; named policies
    rows.append(("memory", f"about {memory / 2**20:,.0f} MiB of weights, gradients, optimiser; activations beside it"))
    disk = 2 * trained * (3 + snapshots) + weights
    rows.append(("disk", f"about {disk / 2**20:,.0f} MiB of checkpoints and model; rollouts beside it"))
    return rows


def outcome(out: Path) -> None:
    """What a finished run came to: before and after on the test split, spending, where to look."""
    console = Console()
    path = out / "final.json"
    if not path.exists():
        return
    final = json.loads(path.read_text())
    test = final["test"]
    held_out = f"{test['items']} test items x {test['samples']} samples; [95% intervals]"
    table = Table(title=f"{final['method']} on {final['task']}: {final['stopped']}", caption=escape(held_out))
    for name in ("test metric", "start model", "trained"):
        table.add_column(name)
    before = (final["start"] or {}).get("metrics", {})
    for name, value in test["metrics"].items():
        table.add_row(name, estimate(before[name]) if name in before else "", estimate(value))
    console.print(table)
    total = final["spent_on"]["total"]
    spent = ", ".join(f"{show(total[u])} {label}" for u, label in UNITS.items() if total[u])
    by = ", ".join(
        f"{what} {show(cost['flops'])}" for what, cost in final["spent_on"].items() if cost["flops"] and what != "total"
    )
    console.print(
        f"spent: {spent}, {show(total['labels'])} labels, {total['seconds']:.0f} s   (FLOPs: {by})", highlight=False
    )
    left = ", ".join(f"{show(v)} {u.replace('_', ' ')}" for u, v in final["unspent"].items())
    left += ", less than one more step may cost" if final["stopped"] == "budget spent" else ""
    console.print(f"unspent: {left}\nmodel: {out / 'model'}\nreport: {out / 'report.html'}", highlight=False)
