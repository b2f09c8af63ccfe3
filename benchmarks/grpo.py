"""A GRPO step against TRL's and against the floor: seconds a step, tokens a second, memory, side by side.

    python benchmarks/grpo.py [--quick] [--only smollm2-short ...] [--micro 4 8 16 64] [--steps 3] [--no-trl]

Every cell is a process of its own; TRL's best micro-batch counts. Writes benchmarks/results/grpo.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from floor import Sizes, flops, rate, seconds, sizes
from sides import MODELS, NAN, TRL, Cell, arguments, best, cell, keep, median, number, show, tell, times
from workloads import MB, Work, endless

WORKS = {
    "tiny": Work("tiny", length=16, prompts=32, new=30, steps=10),
    "smollm2-short": Work("smollm2", length=51),
    "smollm2-long": Work("smollm2", length=291),
    "smollm2-short-bf16": Work("smollm2", length=51, dtype="bfloat16"),
    "smollm2-long-bf16": Work("smollm2", length=291, dtype="bfloat16"),
}
STATE = 16  # bytes of a parameter: weight, gradient and two moments, all float32
COLUMNS = (
    "workload",
    "equipoise s",
    "TRL s",
    "ratio",
    "sampling s",
    "TRL's",
    "learning s",
    "TRL's",
    "tokens/s",
    "peak MB",
    "TRL's",
    "net MB",
    "TRL's",
)


def measure(name: str, work: Work, micros: Sequence[int], trl: bool) -> dict[str, Any]:
    """All cells of a workload, one after the other. The machine's rate is taken before and after ours: where others use
    the machine too, it may be another a quarter of an hour later."""
    before = seconds(work.dtype, work.threads)
    ours = tell(f"{name}: equipoise", run(sys.executable, "grpo_equipoise.py", work))
    flops_s = rate([*before, *seconds(work.dtype, work.threads)])
    fits = [micro for micro in micros if work.rows % micro == 0] if trl else []
    theirs = {
        str(micro): tell(f"{name}: trl, micro-batch {micro}", run(TRL, "grpo_trl.py", replace(work, micro=micro)))
        for micro in fits
    }
    shown = {**asdict(work), "model": Path(work.model).name}
    return {"work": shown, "rate": flops_s, "equipoise": ours, "trl": theirs}


def run(python: Path | str, script: str, work: Work) -> Cell:
    """A cell that did the work asked for, or an error."""
    return checked(cell(python, script, work.dump(), work.threads), work)


def checked(found: Cell, work: Work) -> Cell:
    """An error where steps had more than 1% fewer tokens than the work says (a reply may end), or not one update."""
    if "error" in found:
        return found
    few = min(found["generated"], default=0) < 0.99 * work.tokens
    if few or not found["updates"] == len(found["generated"]) == len(found["step_s"]) == work.steps:
        return {"error": f"not the work asked for: {found['updates']} updates, {found['generated']} tokens", **found}
    return found


def net(found: Cell, size: Sizes) -> float:
    """MB of the peak beyond what the imports hold and weights, gradients and optimiser need."""
    return float(found["peak_mb"]) - float(found["base_mb"]) - size.parameters * STATE / MB


def row(name: str, found: Mapping[str, Any], size: Sizes) -> list[str]:
    """A line of the table. In brackets: TRL's micro-batch; the share of the floor's rate that was reached."""
    work, ours = Work(**found["work"]), found["equipoise"]
    micro, theirs = best(found["trl"])
    if "error" in ours:
        ours = {"peak_mb": NAN, "base_mb": NAN}
    other = theirs or {"peak_mb": NAN, "base_mb": NAN}
    floors = dict(zip(("sample_s", "learn_s"), (least / found["rate"] for least in flops(work, size)), strict=True))

    def part(side: Cell, name: str) -> str:
        seconds = median(side, name)
        return f"{seconds:.2f} ({floors[name] / seconds:.0%})" if seconds == seconds else "-"

    step, their_step = median(ours, "step_s"), median(other, "step_s")
    return [
        name,
        number(step, ".2f"),
        f"{their_step:.2f} ({micro})" if theirs else "-",
        times(their_step / step),
        *(part(side, name) for name in floors for side in (ours, other)),
        number(work.tokens / step, ",.0f"),
        *(number(side["peak_mb"], ",.0f") for side in (ours, other)),
        *(number(net(side, size), ",.0f") for side in (ours, other)),
    ]


def table(results: Mapping[str, Any]) -> None:
    rows = []
    for name, found in results["works"].items():
        rows.append(row(name, found, Sizes(**results["sizes"][found["work"]["model"]])))
    show("A GRPO step, medians (in brackets TRL's micro-batch, or the share of the floor's rate)", COLUMNS, rows)


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=sorted(WORKS), default=list(WORKS))
    parser.add_argument("--micro", nargs="+", type=int, default=[4, 8, 16, 64], help="TRL's micro-batches")
    parser.add_argument("--steps", type=int, help="timed steps of each cell")


def main() -> None:
    asked = arguments(__doc__, "grpo", own)
    names, micros, steps = (["tiny"], [64], 1) if asked.quick else (asked.only, asked.micro, asked.steps)
    results: dict[str, Any] = {"sizes": {}, "works": {}}
    for name in names:
        work = replace(WORKS[name], steps=steps or WORKS[name].steps, threads=1 if asked.quick else 2)
        folder = endless(work.model, MODELS / work.model)
        results["sizes"].setdefault(work.model, asdict(sizes(str(folder))))
        results["works"][name] = measure(name, replace(work, model=str(folder)), micros, not asked.no_trl)
        keep(asked.out, results)
    table(results)


if __name__ == "__main__":
    main()
