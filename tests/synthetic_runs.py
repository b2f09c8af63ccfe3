"""Run directories made up for tests, in the layout of real ones, and jobs that make them.

Nothing here is a result: the numbers come from a generator with a fixed seed and a known skill for each method.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SKILL = {"start": 0.0, "sft": 0.6, "rft": 0.9, "dpo": 0.2, "grpo": 1.6, "nft": 1.5}  # log-odds above the start model
ITEMS, SAMPLES = 60, 4
NOTHING = {"generated_tokens": 0, "trained_tokens": 0, "flops": 0.0, "usd": 0.0, "labels": {}, "seconds": 0.0}
NASTY = "<script>alert('x')</script> & \x1b[31mred\x07 </pre><b>bold</b>"


def evaluation_rows(skill: float, seed: int, items: int = ITEMS, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """Rows of an evaluation by a model of the given skill; item difficulties are the same for every seed."""
    ease = np.random.default_rng(7).normal(-0.8, 1.5, items)
    rng = np.random.default_rng([seed, round(100 * skill)])
    logit = ease + skill + rng.normal(0, 0.15) + rng.normal(0, 0.4, items)
    rows = []
    for i in range(items):
        for k in range(samples):
            right = bool(rng.random() < 1 / (1 + np.exp(-logit[i])))
            text = NASTY if i == 0 else f"I add {i} and {k}.\nThe answer is {i + k if right else 0}."
            rows.append(
                {
                    "item": f"item-{i:03d}",
                    "sample": k,
                    "value": float(right),
                    "status": "right" if right else "wrong",
                    "right": right,
                    "length": 12 + int(rng.integers(20)),
                    "truncated": False,
                    "prompt": f"What is {i} plus {k}? Show your work.",
                    "text": text,
                    "answer": str(i + k if right else 0),
                    "parts": json.dumps({"format": 1.0, "sum": float(right)}),
                }
            )
    return rows


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    rate = float(np.mean([row["right"] for row in rows]))
    return {
        "task": "addition",
        "split": "test",
        "items": ITEMS,
        "samples": SAMPLES,
        "metrics": {
            "pass@1": {"value": rate, "low": rate - 0.05, "high": rate + 0.05},
            "pass@4": {"value": rate, "low": rate - 0.05, "high": rate + 0.05},
        },
    }


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_lines(lines: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(out: Path, method: str, seed: int, skill: float | None = None, steps: int = 24) -> None:
    """A finished run directory of ``method``."""
    skill = SKILL.get(method, 1.0) if skill is None else skill
    rng = np.random.default_rng([seed, len(method)])
    (out / "rollouts").mkdir(parents=True, exist_ok=True)
    samples = method not in ("sft", "dpo")
    metrics, timings = [], []
    for step in range(1, steps + 1):
        share = step / steps
        reward = 1 / (1 + np.exp(-(-0.8 + skill * share))) + rng.normal(0, 0.03)
        line: dict[str, Any] = {
            "step": step,
            "stage": 0,
            "fraction": share,
            "spent/flops": 4e12 * share,
            "spent/generated_tokens": 20_000 * step * samples,
            "spent/trained_tokens": 15_000 * step,
            "spent/labels": 0 if samples else 32 * step,
            "spent/usd": 0.0001 * step,
            "loss": 0.1 * rng.normal(),
            "grad_norm": 1 + 0.2 * rng.normal(),
            "lr": 1e-4,
        }
        if samples:
            line |= {"reward": reward, "reward_std": 0.4, "completions/mean_length": 24 - 4 * share}
            line |= {"kl": 0.02 * step, "entropy": 1.2 - 0.5 * share, "mismatch": 1e-6}
        if step == 1 or step % 6 == 0:
            line |= {"eval/pass@1": reward, "eval/pass@1_low": reward - 0.06, "eval/pass@1_high": reward + 0.06}
        metrics.append(line)
        timings.append({"step": step, "seconds": 1.0, "generate_s": 0.6, "score_s": 0.05, "train_s": 0.35})
    write_lines(metrics, out / "metrics.jsonl")
    write_lines(timings, out / "timings.jsonl")
    write_lines([], out / "ledger.jsonl")
    (out / "run.toml").write_text(f'method = "{method}"\nseed = {seed}\n\n[arguments]\nlr = 1e-4\nsamples = 8\n')
    for step in (1, steps):
        write_rows(
            [
                {
                    "step": step,
                    "prompt_id": f"train-{g}",
                    "prompt": f"What is {g} plus 3?",
                    "text": NASTY if g == 0 else f"{g + 3} after {step} steps",
                    "value": float(rng.random() < 0.3 + 0.5 * step / steps),
                    "status": "right",
                    "advantage": [0.5, 0.5],
                }
                for g in range(4)
                for _ in range(4)
            ],
            out / "rollouts" / f"step-{step:07d}.parquet",
        )
    rows = evaluation_rows(skill, seed)
    write_rows(rows, out / "evaluation" / "test.parquet")
    spent = {k.removeprefix("spent/"): v for k, v in metrics[-1].items() if k.startswith("spent/")}
    labels = {"labels": {} if samples else {"demonstration": 32 * steps}}
    trained = {unit: 0.7 * value for unit, value in spent.items()}
    sampled = {unit: 0.3 * value for unit, value in spent.items()}
    final = {
        "method": method,
        "seed": seed,
        "task": "addition",
        "model": "tiny",
        "budget": {"flops": 4e12},
        "spent": spent | labels | {"seconds": 24.0},
        "spent_on": {"total": spent, "sampling": sampled, "training": trained, "lost": dict.fromkeys(spent, 0)},
        "unspent": {"flops": 0.0},
        "test": _summary(rows),
        "start": _summary(evaluation_rows(0.0, 0)),
        "stopped": "budget spent",
    }
    (out / "final.json").write_text(json.dumps(final))


def write_start(out: Path) -> None:
    """The start model's evaluation in a trial."""
    rows = evaluation_rows(0.0, 0)
    write_rows(rows, out / "evaluation" / "test.parquet")
    final = {"method": "start", "seed": 0, "test": _summary(rows), "stopped": "not trained", "spent": NOTHING}
    (out / "final.json").write_text(json.dumps(final))


def job(spec: Mapping[str, Any], out: Path, report: Callable[[Mapping[str, Any]], None]) -> None:
    """A job that writes a synthetic run. Methods named for a mishap have it."""
    if spec.get("kind") == "start":
        write_start(out)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "threads.txt").write_text(f"{spec['threads']} {os.environ['OMP_NUM_THREADS']} {os.getpid()}\n")
    for step in range(3):
        report({"event": "step", "fraction": step / 3, "step": step, "reward": 0.5})
        time.sleep(0.25 if spec["method"] == "slow" else 0.0)  # so that a progress bar can be seen
    method = spec["method"]
    if method == "raises":
        raise ValueError("no such luck")
    if method == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if method == "hangs":
        time.sleep(600)
    if method == "forgets":
        return
    if method == "patient":
        _until_told_to_stop(out)
        return
    write_run(out, method, spec["seed"])


def _until_told_to_stop(out: Path) -> None:
    """As the training loop does: a first Ctrl-C is noted, the step finished, and no final.json written."""
    told: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    (out / "started").touch()
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # the rest of the step
    (out / "told.txt").write_text(str(len(told)))
