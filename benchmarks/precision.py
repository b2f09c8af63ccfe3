"""What rounding does to learning: the main job (docs/instruct.md) in float32 and in bfloat16, over seeds.

    python benchmarks/precision.py [--quick] [--seeds 0 1 2] [--types float32 bfloat16] [--folder DIR] [--again]
        [--no-plot]

A run is made by `equipoise train`, in a folder of its own, and not again if it is there or among the results: stop and
go on as you like. `--again` makes those that are among the results anew; `--types` leaves the other type's as they are.
Per type: the training reward by share of the budget, mean over seeds with its 95% interval, and each run's test pass
rate. Writes benchmarks/results/precision.json and docs/performance-bfloat16.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from equipoise.engine.local.products import kind
from sides import NAN, ROOT, arguments, console, keep, number, show

TYPES = ("float32", "bfloat16")
WINDOWS = 10  # of the budget
RUN_S = 4 * 3600  # at most for one run
JOB = ("grpo", "--task", "instruct", "--model", "smollm2")
SMALL = ("grpo", "--task", "addition", "--model", "tiny", "--budget.generated-tokens", "6000")
Run = dict[str, Any]


def made(folder: Path, dtype: str, seed: int, quick: bool) -> Run:
    """A run's own account of itself, of a new run or of the one that is there."""
    if not (folder / "final.json").exists():
        command = [str(Path(sys.executable).with_name("equipoise")), "train", *(SMALL if quick else JOB)]
        options = ["--dtype", dtype, "--seed", str(seed), "--out", str(folder)]
        env = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run([*command, *options], env=env, check=False, timeout=RUN_S)
        if done.returncode:
            raise SystemExit(f"the run in {folder} ended with {done.returncode}; remove the folder to begin it again")
    return read(folder, dtype, seed)


def read(folder: Path, dtype: str, seed: int) -> Run:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward" in line and line["step"]]
    test = json.loads((folder / "final.json").read_text())["test"]["metrics"]["pass@1"]
    return {
        "dtype": dtype,
        "seed": seed,
        "products": kind("cpu", dtype),
        "steps": len(steps),
        "fraction": [line["fraction"] for line in steps],
        "reward": [line["reward"] for line in steps],
        "mismatch": [line["mismatch"] for line in steps if "mismatch" in line],
        "test": test,
    }


def earlier(out: Path) -> dict[tuple[str, int], Run]:
    """Runs of earlier results, by type and seed."""
    runs = json.loads(out.read_text())["runs"] if out.exists() else []
    return {(run["dtype"], run["seed"]): run for run in runs}


def stands(run: Run) -> bool:
    """Whether it would be made the same way here: not in bfloat16 where the processor rounds otherwise."""
    return bool(run["dtype"] == "float32" or run["products"] == kind("cpu", run["dtype"]))


def curve(run: Run, windows: int = WINDOWS) -> list[float]:
    """Mean training reward in each window of the budget that was spent; nan where no step ended."""
    share = np.array(run["fraction"]) / max(run["fraction"])
    window = np.minimum((share * windows).astype(int), windows - 1)
    reward = np.array(run["reward"])
    return [float(reward[window == k].mean()) if (window == k).any() else NAN for k in range(windows)]


def interval(runs: Sequence[Run], k: int) -> tuple[float, float, float]:
    """Of window ``k`` over runs: mean, lower and upper end of its 95% interval (Student's). Of two runs the interval
    would say nothing, so there is none."""
    values = np.array([curve(run)[k] for run in runs])
    values = values[~np.isnan(values)]
    if len(values) < 3:
        return (float(values.mean()) if len(values) else NAN), NAN, NAN
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return float(values.mean()), float(low), float(high)


def told(runs: Sequence[Run]) -> None:
    lines = []
    for run in runs:
        test, gap = run["test"], np.array(run["mismatch"])
        shown = f"{test['value']:.3f} [{test['low']:.3f}, {test['high']:.3f}]"
        lines.append([run["dtype"], str(run["seed"]), str(run["steps"]), shown, f"{gap.mean():.2g}, {gap.max():.2g}"])
    show("Test pass rate of each run", ("type", "seed", "steps", "pass@1", "mismatch, mean and most"), lines)
    of = {dtype: [run for run in runs if run["dtype"] == dtype] for dtype in TYPES}
    rows = []
    for k in range(WINDOWS):
        cells = {dtype: interval(of[dtype], k) for dtype in TYPES}
        shown = [number(m, ".3f") + f" [{low:.3f}, {high:.3f}]" * (low == low) for m, low, high in cells.values()]
        _, low, high = cells["float32"]
        rows.append([f"{k / WINDOWS:.0%} to {(k + 1) / WINDOWS:.0%}", *shown, verdict(cells["bfloat16"][0], low, high)])
    show("Training reward by share of the budget, mean over seeds", ("share", *TYPES, "within"), rows)


def verdict(mean: float, low: float, high: float) -> str:
    """Whether bfloat16's mean lies within float32's interval."""
    if np.isnan([mean, low, high]).any():
        return "-"
    return "yes" if low <= mean <= high else "no"


def plot(runs: Sequence[Run], path: Path) -> None:
    """Each run thin, the mean of a type thick, float32's interval shaded."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    middle = (np.arange(WINDOWS) + 0.5) / WINDOWS
    for dtype, colour in zip(TYPES, ("C0", "C1"), strict=True):
        own = [run for run in runs if run["dtype"] == dtype]
        for run in own:
            ax.plot(middle, curve(run), color=colour, alpha=0.35, linewidth=1)
        mean, low, high = np.array([interval(own, k) for k in range(WINDOWS)]).T
        ax.plot(middle, mean, color=colour, linewidth=2.5, label=f"{dtype}, {len(own)} seeds")
        if dtype == "float32":
            name = None if np.isnan(low).all() else "its 95% interval"
            ax.fill_between(middle, low, high, color=colour, alpha=0.15, linewidth=0, label=name)
    ax.set(xlabel="share of the budget", ylabel="training reward", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES), help="of the runs that are made")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "precision", help="of the runs, <type>-<seed>")
    parser.add_argument("--again", action="store_true", help="runs of earlier results too")
    parser.add_argument("--no-plot", action="store_true")


def main() -> None:
    asked = arguments(__doc__, "precision", own, against=False)
    seeds, folder = (asked.seeds[:2], asked.folder / "quick") if asked.quick else (asked.seeds, asked.folder)
    before = {} if asked.quick else earlier(asked.out)
    runs = [run for (dtype, _), run in before.items() if dtype not in asked.types]
    for seed in seeds:
        for dtype in asked.types:
            where = folder / f"{dtype}-{seed}"
            run = before.get((dtype, seed))
            kept = run if run and stands(run) and not asked.again and not where.exists() else None
            console.print(f"{dtype}, seed {seed}: {asked.out if kept else where}", markup=False)
            runs.append(kept or made(where, dtype, seed, asked.quick))
    runs.sort(key=lambda run: (TYPES.index(run["dtype"]), run["seed"]))
    told(runs)
    results: Mapping[str, Any] = {"runs": runs}
    keep(asked.out, results)
    if not asked.no_plot:
        path = asked.out.with_suffix(".png") if asked.quick else ROOT / "docs" / "performance-bfloat16.png"
        plot(runs, path)
        console.print(f"drawn: {path}", markup=False)


if __name__ == "__main__":
    main()
