"""SFT and DPO on ragged lengths against TRL: tokens a second, padding not counted, side by side.

    python benchmarks/ragged.py [--quick] [--only smollm2-sft ...] [--micro 4 8 16] [--steps 3] [--no-trl]

Lengths are log-normal, mean 200 tokens, sigma 0.8, cut at 1,024 (tiny: at 512, which is all it reads). A step is an
update on 16 examples, on about as many tokens where TRL packs. Every cell is a process of its own; of TRL's padded,
packed and padding-free cells the best of each kind is shown. bf16 workloads run where asked for. Writes
benchmarks/results/ragged.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sides import MODELS, NAN, TRL, Cell, arguments, cell, keep, number, show, tell, times
from workloads import Ragged, endless

WORKS = {
    "tiny-sft": Ragged("tiny", "sft", longest=512, steps=10),
    "tiny-dpo": Ragged("tiny", "dpo", longest=512, steps=10),
    "smollm2-sft": Ragged("smollm2", "sft"),
    "smollm2-dpo": Ragged("smollm2", "dpo"),
    "smollm2-sft-bf16": Ragged("smollm2", "sft", dtype="bfloat16"),
    "smollm2-dpo-bf16": Ragged("smollm2", "dpo", dtype="bfloat16"),
}
FP32 = [name for name, work in WORKS.items() if work.dtype == "float32"]
KINDS = ("padded", "packed", "free")
ROWS = (1, 2, 4)  # packed rows of a micro-batch
COLUMNS = (
    "workload",
    "equipoise tokens/s",
    "TRL padded",
    "packed",
    "padding-free",
    "ratio to best",
    "peak MB",
    "TRL's",
)


def variants(work: Ragged, micros: Sequence[int]) -> list[Ragged]:
    """What TRL is tried with."""
    padded = [replace(work, micro=micro) for micro in micros]
    if work.method == "dpo":
        return padded
    packed = [replace(work, packing="packed", micro=rows) for rows in ROWS[: len(micros)]]
    return [*padded, *packed, *(replace(w, packing="free") for w in padded)]


def measure(name: str, work: Ragged, micros: Sequence[int], trl: bool) -> dict[str, Any]:
    ours = tell(f"{name}: equipoise", run(sys.executable, "ragged_equipoise.py", work))
    theirs = {}
    for variant in variants(work, micros) if trl else ():
        label = f"{variant.packing} {variant.micro}"
        theirs[label] = tell(f"{name}: trl, {label}", same(run(TRL, "ragged_trl.py", variant), ours, variant))
    return {"work": {**asdict(work), "model": Path(work.model).name}, "equipoise": ours, "trl": theirs}


def run(python: Path | str, script: str, work: Ragged) -> Cell:
    """A cell of as many updates as asked for, or an error."""
    found = cell(python, script, work.dump(), work.threads)
    if "error" not in found and not found["updates"] == len(found["tokens"]) == len(found["step_s"]) == work.steps:
        return {"error": f"not the work asked for: {found['updates']} updates, {found['tokens']} tokens", **found}
    return found


def same(theirs: Cell, ours: Cell, work: Ragged) -> Cell:
    """An error where both sides saw other tokens. Packed rows are as many as a step has, not as many as there are."""
    if "error" in theirs or "error" in ours or work.packing == "packed" or theirs["shown"] == ours["shown"]:
        return theirs
    return {"error": f"not the same tokens: {theirs['shown']} against {ours['shown']}", **theirs}


def speed(found: Cell | None) -> float:
    """Tokens a second: the median over steps."""
    if not found or "error" in found:
        return NAN
    rates = [float(tokens / s) for tokens, s in zip(found["tokens"], found["step_s"], strict=True)]
    return statistics.median(rates)


def fastest(cells: Mapping[str, Cell], kind: str = "") -> tuple[str, Cell] | tuple[str, None]:
    """Of the cells of a kind (of all kinds: ""), the one of most tokens a second."""
    done = {k: found for k, found in cells.items() if k.startswith(kind) and "error" not in found}
    return max(done.items(), key=lambda item: speed(item[1])) if done else ("", None)


def row(name: str, found: Mapping[str, Any]) -> list[str]:
    ours, every = found["equipoise"], fastest(found["trl"])[1]
    shown = []
    for kind in KINDS:
        label, theirs = fastest(found["trl"], kind)
        shown.append(f"{speed(theirs):,.0f} ({label.split()[-1]})" if theirs else "-")
    peaks = [side["peak_mb"] if side and "error" not in side else NAN for side in (ours, every)]
    ratio = times(speed(ours) / speed(every))
    return [name, number(speed(ours), ",.0f"), *shown, ratio, *(number(peak, ",.0f") for peak in peaks)]


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=sorted(WORKS), default=FP32)
    parser.add_argument("--micro", nargs="+", type=int, default=[4, 8, 16], help="TRL's micro-batches, in examples")
    parser.add_argument("--steps", type=int, help="timed steps of each cell")


def main() -> None:
    asked = arguments(__doc__, "ragged", own)
    quick = (["tiny-sft", "tiny-dpo"], [8], 1)
    names, micros, steps = quick if asked.quick else (asked.only, asked.micro, asked.steps)
    results: dict[str, Any] = {"works": {}}
    for name in names:
        work = replace(WORKS[name], steps=steps or WORKS[name].steps, threads=1 if asked.quick else 2)
        folder = endless(work.model, MODELS / work.model)
        results["works"][name] = measure(name, replace(work, model=str(folder)), micros, not asked.no_trl)
        keep(asked.out, results)
    title = "Ragged lengths, tokens a second, medians (in brackets TRL's micro-batch: examples, or rows where packed)"
    show(title, COLUMNS, [row(name, found) for name, found in results["works"].items()])


if __name__ == "__main__":
    main()
