"""A learning rate for every arm of a claim: the same small budget for each, one seed apart, judged on validation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.claims.claim import Claim
from equipoise.errors import RecordError
from equipoise.record.folder import write_atomic
from equipoise.trial.result import run_folder
from equipoise.trial.runner import ArmSpec, trial
from equipoise.types import Estimate

SEED = 1_000_000  # and up: tuning shares no seed with a claim's runs
ITEMS = 100  # of validation, most
NORMAL = 1.96  # half a 95% interval, in standard errors


@dataclass(frozen=True)
class Tuned:
    """``tried``: learning rate -> the metric on validation, None where the run failed. ``lr`` None: the default."""

    lr: float | None
    tried: dict[str, float | None]


def default_lr(claim: Claim, arm: ArmSpec) -> float:
    """The peak learning rate of an arm's last training stage, which is what its method is about. Where stages before
    it have a rate of their own (a warm-up on demonstrations), a tuned rate holds for these as well."""
    from equipoise.job.job import prepare
    from equipoise.job.settings import settings

    prepared = prepare(settings({**shared(claim), "method": arm.method, "arguments": dict(arm.arguments)}))
    training = [s for s in prepared.recipe.stages if any(stream.objective for stream in s.streams)]
    try:
        return training[-1].lr.resolve(prepared.engine.info)
    finally:
        if prepared.task.close is not None:
            prepared.task.close()


def shared(claim: Claim) -> dict[str, Any]:
    """What all runs of a claim have in common, as settings of a run."""
    return {"task": claim.task, "model": claim.model, "knobs": dict(claim.knobs), "budget": dict(claim.budget)}


def tune(claim: Claim, seed: int, out: Path, jobs: int, console: Console) -> dict[str, Tuned]:
    """The best learning rate of each arm among ``lr_scales`` times its default.

    Every try is a run with ``tuning_share`` of the budget; the test split is not looked at. Goes on where it stopped.
    Raises RecordError when every try of an arm failed, KeyboardInterrupt when it was interrupted.
    """
    if claim.lr_scales == (1.0,):
        return {arm.label: Tuned(None, {}) for arm in claim.arms}
    grid = [(arm, [default_lr(claim, arm) * scale for scale in claim.lr_scales]) for arm in claim.arms]
    tries = [_try(arm, lr) for arm, rates in grid for lr in rates]
    console.print(f"{claim.id}: tuning, {len(tries)} runs on {claim.tuning_share:.0%} of the budget", highlight=False)
    budget = {unit: claim.tuning_share * limit for unit, limit in claim.budget.items()}
    # no scheduled evaluation, and the least test that a run can have: nothing reads it
    options = {"knobs": dict(claim.knobs), "eval": {"points": 0}, "test": {"items": 2, "samples": 1, "start": False}}
    done = trial(
        tries, claim.task, claim.model, [seed], budget, out, jobs, options=options, console=Console(quiet=True)
    )
    if done.interrupted:
        raise KeyboardInterrupt
    failed = {f["method"] for f in done.result["failed"]}
    found: dict[str, Tuned] = {}
    for arm, rates in grid:
        folders = {lr: run_folder(out, name, seed) for lr in rates if (name := _try(arm, lr).label) not in failed}
        found[arm.label] = best(claim, arm, {lr: held_out(claim, folders.get(lr)) for lr in rates})
    return found


def _try(arm: ArmSpec, lr: float) -> ArmSpec:
    return ArmSpec(arm.method, {**arm.arguments, "lr": lr}, f"{arm.label}-lr{lr:.3g}")


def best(claim: Claim, arm: ArmSpec, tried: dict[float, Estimate | None]) -> Tuned:
    """The learning rate nearest the grid's middle among those within a standard error of the best: the default is left
    for what is better, not for what chance makes look better."""
    known = {lr: found for lr, found in tried.items() if found is not None}
    if not known:
        raise RecordError(f"{claim.id}: every learning rate of {arm.label} failed in tuning ({sorted(tried)})")
    values = {lr: found.value if claim.higher else -found.value for lr, found in known.items()}
    top = max(values, key=lambda lr: values[lr])
    error = (known[top].high - known[top].low) / (2 * NORMAL)
    near = [lr for lr in values if values[lr] >= values[top] - error]
    middle = sum(log(lr) for lr in tried) / len(tried)
    chosen = min(near, key=lambda lr: (abs(log(lr) - middle), -values[lr]))
    return Tuned(chosen, {f"{lr:.3g}": found.value if found else None for lr, found in tried.items()})


def held_out(claim: Claim, folder: Path | None) -> Estimate | None:
    """The claim's metric of a finished run on validation; kept beside the run. None where there is no such number."""
    if folder is None:
        return None
    path = folder / "evaluation" / "validation.json"
    if not path.exists():
        write_atomic(path, json.dumps(_validate(claim, folder)).encode())
    estimate = json.loads(path.read_text())["metrics"].get(claim.metric)
    return Estimate(**estimate) if estimate and isfinite(estimate["value"]) else None


def _validate(claim: Claim, folder: Path) -> dict[str, Any]:
    from equipoise import tasks
    from equipoise.evaluate import evaluate
    from equipoise.job.finished import opened
    from equipoise.keys import Key

    task = tasks.load(claim.task, **claim.knobs)
    try:
        engine, adjust = opened(folder, task)
        items, key = min(ITEMS, claim.items), Key((SEED, "validation"))
        return evaluate(engine, task, "validation", items, claim.samples, key, claim.ks, adjust=adjust).json()
    finally:
        if task.close is not None:
            task.close()
