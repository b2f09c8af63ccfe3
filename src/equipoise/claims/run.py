"""Running a claim: its spec's commit noted, learning rates tuned, the trial, the verdict, the result stored.

    out/claim.json   the spec's commit and the seeds, from the start
    out/tuning/      the runs that chose learning rates
    out/trial/       the trial, with its report

Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from equipoise.claims import ledger, tuning
from equipoise.claims.claim import Claim, Contrast
from equipoise.claims.provenance import commit_of
from equipoise.claims.tuning import Tuned, tune
from equipoise.claims.verdict import Finding, settle
from equipoise.errors import ArgumentError, RecordError
from equipoise.record.folder import write_atomic
from equipoise.report.figures import seeds_band
from equipoise.report.folders import load_run
from equipoise.trial.result import START, ArmRuns, load_arm
from equipoise.trial.runner import ArmSpec, TrialResult, trial
from equipoise.trial.statistics import Arm

CURVE = 11  # points kept of an arm's learning curve


def run(
    name: str,
    seeds: int | None = None,
    jobs: int = 2,
    out: Path | None = None,
    *,
    specs: Path | None = None,
    results: Path | None = None,
    console: Console | None = None,
) -> ledger.Result:
    """Run a claim on fresh seeds and store the result. ``seeds``: how many, by default the spec's.

    Raises RecordError for a spec that is not committed and for runs that failed, KeyboardInterrupt when interrupted.
    """
    console = console or Console()
    claim = ledger.claim(name, specs)
    count = claim.seeds if seeds is None else seeds
    if count < 2:
        raise ArgumentError(f"--seeds is {count}; the spread between seeds needs at least 2")
    drawn = ledger.fresh_seeds(ledger.results(claim.id, results), count)
    out = out or Path("runs") / "claims" / f"{claim.id}-s{drawn[0]}"
    commit = commit_of(ledger.spec_path(claim, specs))
    _begin(out, {"id": claim.id, "commit": commit, "seeds": drawn})
    chosen = tune(claim, tuning.SEED + drawn[0], out / "tuning", jobs, console)
    done = _trial(claim, chosen, drawn, out / "trial", jobs, console)
    found = result(claim, commit, drawn, out / "trial", done.result, chosen)
    console.print(f"stored in {ledger.append(claim.id, found, results)}", highlight=False)
    return found


def _begin(out: Path, plan: Mapping[str, Any]) -> None:
    """Note what is being run, or see that ``out`` holds the same. Raises RecordError."""
    path = out / "claim.json"
    if path.exists():
        old = json.loads(path.read_text())
        if differ := sorted(k for k in plan if old.get(k) != plan[k]):
            raise RecordError(f"{out} holds another run of a claim ({', '.join(differ)} differ); choose another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(plan, indent=1) + "\n").encode())


def _trial(
    claim: Claim, chosen: Mapping[str, Tuned], seeds: Sequence[int], out: Path, jobs: int, console: Console
) -> TrialResult:
    """The claim's trial at the tuned learning rates. Raises RecordError for failed jobs: a verdict on the seeds that
    happened to survive would be biased."""
    arms = [with_lr(arm, chosen[arm.label]) for arm in claim.arms]
    done = trial_of(claim, arms, seeds, out, jobs, console)
    if done.result["failed"]:
        names = ", ".join(f"{f['method']} seed {f['seed']}: {f['reason']}" for f in done.result["failed"])
        raise RecordError(f"{claim.id}: no verdict, because runs failed ({names}); see {out / 'errors'}. Run it again")
    return done


def trial_of(
    claim: Claim, arms: Sequence[ArmSpec], seeds: Sequence[int], out: Path, jobs: int, console: Console
) -> TrialResult:
    """A claim's trial with these arms, failed jobs and all. Raises KeyboardInterrupt when it was interrupted."""
    test = {"items": claim.items, "samples": claim.samples, "start": False}
    options = {"knobs": dict(claim.knobs), "test": test}
    done = trial(arms, claim.task, claim.model, seeds, claim.budget, out, jobs, options=options, console=console)
    if done.interrupted:
        raise KeyboardInterrupt
    return done


def with_lr(arm: ArmSpec, tuned: Tuned) -> ArmSpec:
    """The arm with its learning rate."""
    return arm if tuned.lr is None else ArmSpec(arm.method, {**arm.arguments, "lr": tuned.lr}, arm.label)


def result(
    claim: Claim,
    commit: str,
    seeds: Sequence[int],
    out: Path,
    trial_result: Mapping[str, Any],
    chosen: Mapping[str, Tuned],
) -> ledger.Result:
    """What is stored of a run of a claim: plain data."""
    loaded = load_arms(claim, seeds, out)
    decided = compare(claim, claim.deciding, loaded)
    measured = {arm["method"]: arm for arm in trial_result["arms"]}
    return {
        "id": claim.id,
        "method": claim.method,
        **asdict(decided),
        "contrast": asdict(claim.deciding) | {"matters": claim.matters},
        "also": [asdict(c) | asdict(compare(claim, c, loaded)) for c in claim.also],
        "seeds": list(seeds),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "version": metadata.version("equipoise"),
        "task": claim.task,
        "knobs": dict(claim.knobs),
        "model": claim.model,
        "budget": dict(claim.budget),
        "test": {"items": claim.items, "samples": claim.samples},
        "arms": {
            arm.label: {"method": arm.method, "arguments": dict(with_lr(arm, chosen[arm.label]).arguments)}
            for arm in claim.arms
        },
        "measured": {name: {"metrics": m["metrics"], "spent": m["spent"]} for name, m in measured.items()},
        "tuning": {name: tuned.tried for name, tuned in chosen.items()},
        "curves": {arm.label: curve(loaded[arm.label].folders) for arm in claim.arms},
    }


def load_arms(claim: Claim, seeds: Sequence[int], out: Path) -> dict[str, ArmRuns]:
    """The finished runs of every arm, and of the start model, in a claim's trial."""
    wanted: dict[str, Sequence[int | None]] = {**{arm.label: seeds for arm in claim.arms}, START: [None]}
    loaded = {name: load_arm(out, name, those, claim.ks) for name, those in wanted.items()}
    return {name: arm for name, arm in loaded.items() if arm is not None}


def compare(claim: Claim, contrast: Contrast, arms: Mapping[str, ArmRuns]) -> Finding:
    """A contrast's finding on the items that both of its arms have a number for. Raises as ``paired``."""
    return settle(*paired(claim, contrast, arms), claim.matters, contrast.metric, contrast.higher)


def paired(claim: Claim, contrast: Contrast, arms: Mapping[str, ArmRuns]) -> tuple[Arm, Arm]:
    """The better and the worse arm of a contrast on the items that both have a number for.

    Raises RecordError when an arm has no such number, or they share fewer than two items."""
    pair = [arms[contrast.better], arms[contrast.worse]]
    for arm in pair:
        if contrast.metric not in arm.metrics:
            known = ", ".join(sorted(arm.metrics))
            raise RecordError(f"{claim.id}: {arm.name} has no {contrast.metric}; it has {known}")
    shared = sorted(set(pair[0].items) & set(pair[1].items))
    tables = [arm.metrics[contrast.metric][:, [arm.items.index(i) for i in shared]] for arm in pair]
    known_items = ~np.isnan(np.concatenate(tables)).any(axis=0)
    if known_items.sum() < 2:
        raise RecordError(f"{claim.id}: {contrast} can be told on {known_items.sum()} items; needs at least 2")
    better, worse = (
        Arm(arm.name, table[:, known_items], fixed=arm.name == START) for arm, table in zip(pair, tables, strict=True)
    )
    return better, worse


def curve(folders: Sequence[Path]) -> list[list[float]]:
    """An arm's held-out score on the way: pairs of share of the budget spent and mean over seeds; [] without any."""
    runs = [load_run(folder) for folder in folders]
    band = seeds_band(runs, runs[0].held_out, "fraction") if runs and runs[0].held_out else None
    if band is None:
        return []
    keep = np.linspace(0, len(band[0]) - 1, CURVE).round().astype(int)
    return [[round(float(band[0][k]), 4), round(float(band[1][k]), 4)] for k in keep]
