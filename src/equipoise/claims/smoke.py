"""A claim tried small, before it is run: every arm on a share of its budget and one seed, then what a verdict needs.

Nothing is decided and nothing stored. What fails comes back as data: which arm or contrast, and why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise import recipes, tasks
from equipoise.claims.claim import Claim
from equipoise.claims.run import load_arms, paired, trial_of, with_lr
from equipoise.claims.tuning import Tuned, default_lr, held_out
from equipoise.errors import EquipoiseError
from equipoise.trial.result import run_folder
from equipoise.trial.runner import ArmSpec

SEED = 2_000_000  # shared with no claim's runs and no tuning
ITEMS = 10  # of validation and of the test, most


@dataclass(frozen=True)
class Fault:
    """``where``: an arm, or a contrast in words."""

    where: str
    reason: str


@dataclass(frozen=True)
class Smoke:
    """``updates``: arm -> training stage -> steps that learned. ``seconds``: arm -> about how long a run with the whole
    budget would train, at the pace seen."""

    id: str
    updates: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    faults: tuple[Fault, ...]

    def minutes(self, claim: Claim) -> float:
        """About how long one worker would train for the whole claim, tuning included; tests are not."""
        tries = 0.0 if claim.lr_scales == (1.0,) else claim.tuning_share * len(claim.lr_scales)
        return sum(self.seconds.values()) * (claim.seeds + tries) / 60


def smoke(claim: Claim, out: Path, share: float | None = None, jobs: int = 2, console: Console | None = None) -> Smoke:
    """Try ``claim`` with ``share`` of its budget (None: as it says) in ``out``.

    Raises KeyboardInterrupt when it was interrupted."""
    share = claim.smoke_share if share is None else share
    budget = {unit: share * limit for unit, limit in claim.budget.items()}
    small = replace(claim, budget=budget, items=min(ITEMS, claim.items))
    arms, faults = _prepared(small)
    if not arms:
        return Smoke(claim.id, {}, {}, tuple(faults))
    done = trial_of(small, arms, [SEED], out, jobs, console or Console(quiet=True))
    faults += [Fault(f["method"], f["reason"]) for f in done.result["failed"]]
    ran = [arm for arm in arms if arm.label not in {f.where for f in faults}]
    updates = {arm.label: _updates(small, arm, run_folder(out, arm.label, SEED)) for arm in ran}
    faults += [
        Fault(name, f"stage {stage} made no update with {share:.0%} of the budget")
        for name, counts in updates.items()
        for stage, n in counts.items()
        if n == 0
    ]
    faults += [*_unmeasured(small, ran, out), *_untold(small, out)]
    paces = {arm.label: _pace(run_folder(out, arm.label, SEED)) for arm in ran}
    seconds = {name: pace / share for name, pace in paces.items() if pace is not None}
    return Smoke(claim.id, updates, seconds, tuple(faults))


def _prepared(claim: Claim) -> tuple[list[ArmSpec], list[Fault]]:
    """The arms at their default learning rates, given as tuning gives them; those that cannot begin are faults."""
    arms, faults = [], []
    for arm in claim.arms:
        try:
            lr = default_lr(claim, arm)
        except EquipoiseError as error:
            faults.append(Fault(arm.label, str(error)))
        else:
            arms.append(with_lr(arm, Tuned(None if claim.lr_scales == (1.0,) else lr, {})))
    return arms, faults


def _updates(claim: Claim, arm: ArmSpec, folder: Path) -> dict[str, int]:
    """Of each stage that trains, how many steps learned something."""
    task = tasks.load(claim.task, **claim.knobs)
    try:
        stages = recipes.build(arm.method, task, **arm.arguments).stages
    finally:
        if task.close is not None:
            task.close()
    made = Counter(line["stage"] for line in _lines(folder / "metrics.jsonl") if "lr" in line)
    return {s.name: made[s.name] for s in stages if any(stream.objective for stream in s.streams)}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _unmeasured(claim: Claim, arms: Sequence[ArmSpec], out: Path) -> list[Fault]:
    """Arms whose learning rate could not be tuned, for want of the metric on validation."""
    if claim.lr_scales == (1.0,):
        return []
    faults = []
    for arm in arms:
        try:
            if held_out(claim, run_folder(out, arm.label, SEED)) is None:
                faults.append(Fault(arm.label, f"validation gives no {claim.metric} to tune the learning rate by"))
        except EquipoiseError as error:
            faults.append(Fault(arm.label, f"on validation: {error}"))
    return faults


def _untold(claim: Claim, out: Path) -> list[Fault]:
    """Contrasts that the finished runs do not allow to be told."""
    arms, faults = load_arms(claim, [SEED], out), []
    for contrast in claim.contrasts:
        if lacking := sorted({contrast.better, contrast.worse} - arms.keys()):
            faults.append(Fault(str(contrast), f"no finished run of {', '.join(lacking)}"))
            continue
        try:
            paired(claim, contrast, arms)
        except EquipoiseError as error:
            faults.append(Fault(str(contrast), str(error)))
    return faults


def _pace(folder: Path) -> float | None:
    """Seconds that a run's steps would take for the whole of its budget; None where they spent nothing."""
    shares = [line["fraction"] for line in _lines(folder / "metrics.jsonl")]
    seconds = sum(line["seconds"] for line in _lines(folder / "timings.jsonl"))
    return float(seconds / (shares[-1] - shares[0])) if shares[-1] > shares[0] else None
