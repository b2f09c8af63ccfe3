"""How cost grows: with prompts, samples, lengths and steps; what a step spends on its record; what rows cost.

    python benchmarks/growth.py [--quick] [--only tokens record memory steps layouts] [--no-plot]

tokens: time per generated token against the number of prompts (tiny). record: share of a step that is not sampling,
scoring, credit or learning (smollm2). memory: resident memory over 500 steps (tiny). steps: seconds of a step against
group size, prompt length and response length (smollm2). layouts: the learner's rows in each layout, and in the chosen
one. Writes benchmarks/results/growth.json (what was not asked for stays in it) and docs/performance-growth.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from layouts import NAMES, Layout
from sides import MODELS, ROOT, Cell, arguments, cell, console, keep, median, number, show, tell
from workloads import Work, endless

WARM = 100  # steps before memory is looked at
BASE = Work("smollm2", length=51, prompts=4, steps=2)
STEPS = {
    "samples": [replace(BASE, samples=n) for n in (2, 4, 8, 16)],
    "length": [replace(BASE, length=n) for n in (51, 128, 291, 512)],
    "new": [replace(BASE, new=n) for n in (16, 32, 64, 128)],
}
AXES = {"samples": "samples a prompt", "length": "tokens of a prompt", "new": "tokens of a response"}
LAYOUTS = [
    Layout("smollm2", 51, 32),
    Layout("smollm2", 291, 32),
    Layout("smollm2", 100, 100),
    Layout("smollm2", 100, 300, ragged=True),
    Layout("smollm2", 1000, 32),
    Layout("smollm2", 100, 1000),
    Layout("smollm2", 100, 1000, samples=4, limit=4500),
]
Results = dict[str, Any]


def ran(work: Work, where: str, quick: bool) -> Cell:
    """A GRPO cell of Equipoise's; where quick, of a small piece of the work on the tiny model."""
    if quick:
        work = replace(work, model="tiny", prompts=min(work.prompts, 8), steps=min(work.steps, 2), threads=1)
        work = replace(work, length=min(work.length, 64), new=min(work.new, 32))
    work = replace(work, model=str(endless(work.model, MODELS / work.model)))
    return tell(where, cell(sys.executable, "grpo_equipoise.py", work.dump(), work.threads))


def tokens(quick: bool) -> Results:
    """Microseconds of sampling, and of a whole step, per generated token."""
    found = {}
    for prompts in (2, 8) if quick else (8, 32, 128):
        work = Work("tiny", length=16, prompts=prompts, new=30, steps=5)
        run = ran(work, f"tokens: {prompts} prompts", quick)
        found[str(prompts)] = run | {
            name: 1e6 * median(run, seconds) / work.tokens
            for name, seconds in (("sample", "sample_s"), ("step", "step_s"))
        }
    show(
        "Time per generated token against prompts (tiny): should be flat",
        ("prompts", "sampling, us a token", "step, us a token"),
        [[k, number(r["sample"], ".1f"), number(r["step"], ".1f")] for k, r in found.items()],
    )
    return found


def record(quick: bool) -> Results:
    run = ran(Work("smollm2", length=51, steps=4), "record: smollm2", quick)
    share = median(run, "record_s") / median(run, "step_s")
    line = [number(median(run, "step_s"), ".3f"), number(median(run, "record_s"), ".4f"), number(share, ".2%")]
    show("What a step spends on its record, metrics and ledger: at most 3%", ("step s", "record s", "share"), [line])
    return run | {"share": share}


def memory(quick: bool) -> Results:
    warm, steps = (2, 8) if quick else (WARM, 500)
    work = Work("tiny", length=16, prompts=4, samples=4, new=8, steps=steps - 1)
    run = cell(
        sys.executable, "grpo_equipoise.py", replace(work, model=str(endless("tiny", MODELS / "tiny"))).dump(), 1
    )
    tell(f"memory: {steps} steps", run)
    resident = run.get("resident_mb", [])[warm:]
    slope = 100 * float(np.polyfit(range(len(resident)), resident, 1)[0]) if len(resident) > 1 else float("nan")
    ends = [number(resident[k], ",.1f") if resident else "-" for k in (0, -1)]
    columns = ("steps", f"MB after {warm}", "MB at the end", "MB per 100 steps")
    show("Resident memory over steps (tiny): should be flat", columns, [[str(steps), *ends, number(slope, "+.2f")]])
    return run | {"slope_mb_per_100_steps": slope}


def steps(quick: bool) -> Results:
    """Seconds of a step, of sampling and of learning, along each axis."""
    found: Results = {}
    lines = []
    for axis, works in STEPS.items():
        found[axis] = {}
        for work in works[:2] if quick else works:
            at = getattr(work, axis)
            run = found[axis][str(at)] = ran(work, f"steps: {AXES[axis]} {at}", quick)
            parts = [number(median(run, name), ".2f") for name in ("step_s", "sample_s", "learn_s")]
            lines.append([AXES[axis], str(at), *parts])
    title = f"Seconds of a step of {BASE.prompts} prompts (smollm2; otherwise 51 prompt tokens, 8 samples of 32 tokens)"
    show(title, ("against", "at", "step s", "sampling s", "learning s"), lines)
    return found


def layouts(quick: bool) -> Results:
    found: Results = {}
    for work in [Layout("tiny", 64, 32, repeats=1, threads=1)] if quick else LAYOUTS:
        ready = replace(work, model=str(endless(work.model, MODELS / work.model)))
        limit = f", micro-batches of {work.limit}" if work.limit else ""
        name = f"P={work.length} R={'1-' * work.ragged}{work.new} N={work.samples}{limit}"
        found[name] = cell(sys.executable, "layouts.py", ready.dump(), work.threads)
        if "error" in found[name]:
            tell(f"layouts: {name}", found[name])
    lines = []
    for name, run in found.items():
        took = {layout: median(run.get("seconds"), layout) for layout in (*NAMES, "chosen")}
        shown = [number(took[layout], ".2f") for layout in NAMES]
        chosen = run.get("chosen", "-")
        lines.append([name, *shown, chosen, number(run.get("ratio", float("nan")), ".2f")])
    columns = ("cell", *(f"{layout} s" for layout in NAMES), "chosen", "chosen / best")
    show("Forward and backward in each layout of rows: the chosen one within 1.10 of the best", columns, lines)
    return found


PARTS: Mapping[str, Callable[[bool], Results]] = {
    "tokens": tokens,
    "record": record,
    "memory": memory,
    "steps": steps,
    "layouts": layouts,
}


def plot(results: Results, path: Path) -> None:
    """A panel for each axis of ``steps``, and one for memory."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(AXES) + 1, figsize=(4 * (len(AXES) + 1), 3.2), layout="constrained")
    for (axis, label), ax in zip(AXES.items(), axes, strict=False):
        found = {int(at): run for at, run in results["steps"][axis].items() if "error" not in run}
        for name, word in (("step_s", "step"), ("sample_s", "sampling"), ("learn_s", "learning")):
            ax.plot(list(found), [median(run, name) for run in found.values()], marker="o", label=word)
        ax.set(xlabel=label, ylabel="seconds", ylim=(0, None), xlim=(0, None))
    axes[0].legend(frameon=False)
    resident = results["memory"].get("resident_mb", [])
    axes[-1].plot(resident)
    axes[-1].set(xlabel="step", ylabel="resident memory, MB", ylim=(0, 1.1 * max(resident, default=1)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--no-plot", action="store_true")


def main() -> None:
    asked = arguments(__doc__, "growth", own, against=False)
    results: Results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for name in asked.only:
        results[name] = PARTS[name](asked.quick)
        keep(asked.out, results)
    if not asked.no_plot and {"steps", "memory"} <= results.keys():
        path = asked.out.with_suffix(".png") if asked.quick else ROOT / "docs" / "performance-growth.png"
        plot(results, path)
        console.print(f"drawn: {path}", markup=False)


if __name__ == "__main__":
    main()
