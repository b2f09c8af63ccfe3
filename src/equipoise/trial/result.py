"""From finished run directories to ``result.json``: arms with their metrics and spending, verdicts on every pair."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from equipoise.budget import show
from equipoise.errors import RecordError, UnknownName
from equipoise.evaluate.estimators import Floats, item_values
from equipoise.evaluate.table import items_of_rows, read
from equipoise.trial.statistics import Arm, Verdict, arm_mean, verdicts

START = "start"
MOST = 0.5  # of the items, for an arm to have a metric
INTERRUPTED = "interrupted"  # why a run stopped that is to be gone on with
LOWER_IS_BETTER = frozenset({"loss", "length", "truncated"})
# Metrics that cannot leave [0, 1].
SHARES = re.compile(r"(turn\d+/)?(pass@|maj@|wrong_to_right|right_to_wrong)|truncated|preference_accuracy")


@dataclass(frozen=True)
class ArmRuns:
    """The finished runs of an arm. The start model has one, and no seeds."""

    name: str
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]
    finals: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Floats]  # name -> [seeds, items]; items in the order of ``items``
    items: tuple[str, ...]

    def arm(self, metric: str) -> Arm:
        return Arm(self.name, self.metrics[metric], fixed=self.name == START)


def run_folder(out: Path, arm: str, seed: int | None) -> Path:
    """Where an arm's run with a seed lives; ``None`` for the start model."""
    return out / START if seed is None else out / f"{arm}-s{seed}"


def evaluation_path(folder: Path) -> Path:
    """The final evaluation in a run directory."""
    return folder / "evaluation" / "test.parquet"


def finished(folder: Path) -> bool:
    """Whether a job ended, not by Ctrl-C, and left what the trial needs of it."""
    return final_of(folder).get("stopped", INTERRUPTED) != INTERRUPTED and evaluation_path(folder).exists()


def load_arms(out: Path, settings: Mapping[str, Any]) -> list[ArmRuns]:
    """Every arm with a finished run, the start model last, all on the items they share.

    Raises RecordError when a file is damaged or they share no items."""
    seeds: dict[str, list[int | None]] = {**{name: list(settings["seeds"]) for name in settings["arms"]}, START: [None]}
    ks = _ks([run_folder(out, name, seed) for name, those in seeds.items() for seed in those])
    loaded = [load_arm(out, name, those, ks) for name, those in seeds.items()]
    return _same_items([arm for arm in loaded if arm is not None])


def load_arm(out: Path, name: str, seeds: Sequence[int | None], ks: Sequence[int]) -> ArmRuns | None:
    """The finished runs among ``seeds`` ([None] for the start model); None when there are none.

    ``ks``: of pass@k and maj@k; empty where replies were scored instead of samples.
    """
    pairs = [(s, folder) for s in seeds if finished(folder := run_folder(out, name, s))]
    if not pairs:
        return None
    folders = tuple(folder for _, folder in pairs)
    tables = [_metrics(evaluation_path(folder), ks) for folder in folders]
    shared = sorted(set.intersection(*(set(items) for items, _ in tables)))
    names = [metric for metric in tables[0][1] if all(metric in found for _, found in tables)]
    stacked = {metric: np.stack([_pick(items, found[metric], shared) for items, found in tables]) for metric in names}
    found_seeds = tuple(s for s, _ in pairs if s is not None)
    return ArmRuns(name, found_seeds, folders, tuple(final_of(f) for f in folders), stacked, tuple(shared))


def final_of(folder: Path) -> Mapping[str, Any]:
    """A run's final.json; empty when there is none. Raises RecordError when it is damaged."""
    path = folder / "final.json"
    if not path.exists():
        return {}
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged: {error}. Delete it and resume the trial") from error
    return found


def _ks(folders: Sequence[Path]) -> list[int]:
    """The k of every pass@k that the runs' own evaluations have; none where there is no verifier."""
    metrics = {name for folder in folders for name in (final_of(folder).get("test") or {}).get("metrics", {})}
    found = sorted(int(name[5:]) for name in metrics if re.fullmatch(r"pass@\d+", name))
    return found or ([] if "loss" in metrics else [1])


def _pick(items: Sequence[str], values: Floats, wanted: Sequence[str]) -> Floats:
    at = {name: k for k, name in enumerate(items)}
    return values[[at[name] for name in wanted]]


def _metrics(path: Path, ks: Sequence[int]) -> tuple[list[str], dict[str, Floats]]:
    """Item ids and metric -> [items], in that order."""
    rows = read(path)
    if not rows:
        raise RecordError(f"{path} has no rows; delete {path.parents[1]} and resume the trial")
    if not ks:
        return _reply_metrics(rows)
    items = items_of_rows(rows)
    return [i.id for i in items], item_values(items, ks)


def _reply_metrics(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Floats]]:
    """Held-out loss in nats per token over all items, as each item's part of it; and which reply is preferred.

    A row's value is its reply's mean log-probability, the preferred reply is sample 0.
    """
    ordered = sorted(rows, key=lambda row: (row["item"], row["sample"]))
    replies = {str(k): list(found) for k, found in groupby(ordered, key=lambda row: row["item"])}
    nats = [[float(r["value"]) * int(r["length"]) for r in found] for found in replies.values()]
    tokens = np.array([int(found[0]["length"]) for found in replies.values()], dtype=np.float64)
    metrics = {"loss": -np.array([x[0] for x in nats]) / tokens.mean()}
    if all(len(x) == 2 for x in nats):
        metrics["preference_accuracy"] = np.array([float(a > b) + 0.5 * float(a == b) for a, b in nats])
    return list(replies), metrics


def conclude(
    settings: Mapping[str, Any], out: Path, failed: Sequence[Mapping[str, Any]], metric: str | None = None
) -> dict[str, Any]:
    """The content of ``result.json``, from whatever runs have finished.

    ``settings``: the trial's task, model, budget, arms (names) and seeds. ``metric``: what verdicts are about; by
    default pass@1, or the reward where no response is ever right or all are, or loss where there is no verifier.
    Raises UnknownName for a metric that the evaluations do not have, RecordError for damaged ones.
    """
    arms = load_arms(out, settings)
    about = _primary(arms, metric)
    most = 1.0 if SHARES.match(about) else np.inf
    compared = [a.arm(about) for a in arms] if len(arms) > 1 else []
    decided = verdicts(compared, about, about not in LOWER_IS_BETTER, most=most)
    return {
        "task": settings["task"],
        "model": settings["model"],
        "budget": settings["budget"],
        "arms": [_arm_summary(arm) for arm in arms],
        "verdicts": [_verdict_json(v) for v in decided],
        "failed": list(failed),
    }


def _same_items(arms: list[ArmRuns]) -> list[ArmRuns]:
    """Every arm on the items that all of them have a verdict on."""
    if not arms:
        return []
    shared = set.intersection(*(set(arm.items) for arm in arms))
    if len(shared) < 2:
        raise RecordError(f"the runs of {[a.name for a in arms]} share {len(shared)} held-out items; need at least 2")
    kept = []
    for arm in arms:
        columns = [k for k, item in enumerate(arm.items) if item in shared]
        metrics = {name: values[:, columns] for name, values in arm.metrics.items()}
        kept.append(ArmRuns(arm.name, arm.seeds, arm.folders, arm.finals, metrics, tuple(sorted(shared))))
    return _without_unknown(kept)


def _without_unknown(arms: list[ArmRuns]) -> list[ArmRuns]:
    """A metric belongs to the arms that can estimate it for most items, and is taken over the items that all runs of
    those can estimate; one without two such items is left out."""
    known = [{n: ~np.isnan(values).any(axis=0) for n, values in arm.metrics.items()} for arm in arms]
    able = [{n: mask for n, mask in mine.items() if mask.mean() >= MOST} for mine in known]
    shared = {n: np.all([mine[n] for mine in able if n in mine], axis=0) for mine in able for n in mine}
    return [
        ArmRuns(
            arm.name,
            arm.seeds,
            arm.folders,
            arm.finals,
            {n: arm.metrics[n][:, shared[n]] for n in mine if shared[n].sum() >= 2},
            arm.items,
        )
        for arm, mine in zip(arms, able, strict=True)
    ]


def _primary(arms: Sequence[ArmRuns], wanted: str | None) -> str:
    if not arms:
        return wanted or "pass@1"
    known = [name for name in arms[0].metrics if all(name in arm.metrics for arm in arms)]
    if wanted is not None:
        if wanted not in known:
            raise UnknownName("metric", wanted, known)
        return wanted
    if "pass@1" not in known:
        return "preference_accuracy" if "preference_accuracy" in known else "loss"
    every = np.concatenate([arm.metrics["pass@1"].ravel() for arm in arms])
    rewards = np.concatenate([arm.metrics["reward"].ravel() for arm in arms])
    return "reward" if np.ptp(every) == 0 and np.ptp(rewards) > 0 else "pass@1"


def _arm_summary(arm: ArmRuns) -> dict[str, Any]:
    return {
        "method": arm.name,
        "seeds": list(arm.seeds),
        "metrics": {name: _metric_json(arm, name) for name in arm.metrics},
        "spent": mean_spent(arm.finals),
    }


def _metric_json(arm: ArmRuns, name: str) -> dict[str, float | None]:
    estimate = arm_mean(arm.arm(name), share=SHARES.match(name) is not None)
    if estimate is None:
        return {"value": float(arm.metrics[name].mean()), "low": None, "high": None}
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def mean_spent(finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a run of the arm spent, in every unit: the mean over its seeds. Labels of all kinds together."""
    spent = [{unit: _total(x) for unit, x in final.get("spent", {}).items()} for final in finals]
    units = [unit for unit in (spent[0] if spent else {}) if all(unit in s for s in spent)]
    return {unit: float(np.mean([s[unit] for s in spent])) for unit in units}


def _total(x: float | Mapping[str, float]) -> float:
    return float(sum(x.values())) if isinstance(x, Mapping) else float(x)


def _verdict_json(v: Verdict) -> dict[str, Any]:
    return {
        "a": v.a,
        "b": v.b,
        "metric": v.metric,
        "estimate": v.estimate,
        "low": v.low,
        "high": v.high,
        "verdict": v.verdict,
    }


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """The arms and the verdicts as tables for a terminal."""
    console.print(_arm_table(result))
    if result["verdicts"]:
        console.print(_verdict_table(result["verdicts"]))
    for failure in result["failed"]:
        seed = "" if failure.get("seed") is None else f" seed {failure['seed']}"
        told = escape(printable(f"{failure['method']}{seed}: {failure['reason']}"))
        console.print(f"[red]failed[/red]  {told}", highlight=False)


def printable(text: str) -> str:
    """Text without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _arm_table(result: Mapping[str, Any]) -> Table:
    """The verdicts' metric, the budget's units, and what else was spent: narrow enough for 80 columns."""
    about = result["verdicts"][0]["metric"] if result["verdicts"] else "pass@1"
    heads = {"generated_tokens": "generated", "trained_tokens": "trained", "flops": "FLOPs", "usd": "USD"}
    units = [u for u in dict.fromkeys([*result["budget"], "generated_tokens", "labels", "seconds"]) if _used(result, u)]
    title = escape(printable(f"{result['task']} on {result['model']}: held-out test"))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("seeds", justify="right")
    table.add_column(f"{about} [95% interval]", justify="right", no_wrap=True)
    for unit in units:
        table.add_column(heads.get(unit, unit), justify="right", no_wrap=True)
    for arm in result["arms"]:
        spent = [show(arm["spent"][u]) if arm["spent"].get(u) else "–" for u in units]
        table.add_row(escape(arm["method"]), str(len(arm["seeds"]) or "–"), number(arm["metrics"].get(about)), *spent)
    return table


def _used(result: Mapping[str, Any], unit: str) -> bool:
    return any(arm["spent"].get(unit) for arm in result["arms"])


def number(metric: Mapping[str, float | None] | None) -> str:
    """A value with its interval for people: 0.412 [0.380, 0.444]."""
    if metric is None or metric["value"] is None:
        return "n/a"
    digits = 3 if abs(metric["value"]) < 10 else 1
    if metric["low"] is None or metric["high"] is None:
        return f"{metric['value']:.{digits}f}"
    return f"{metric['value']:.{digits}f} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"


def _verdict_table(found: Sequence[Mapping[str, Any]]) -> Table:
    pairs = f"{len(found)} pairs" if len(found) > 1 else "1 pair"
    title = f"{found[0]['metric']}, differences and verdicts, adjusted for {pairs} (Holm)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("pair", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("verdict")
    for v in sorted(found, key=lambda v: START not in (v["a"], v["b"])):
        colour = "dim" if v["verdict"].startswith("cannot tell") else "bold"
        cell = number({"value": v["estimate"], "low": v["low"], "high": v["high"]})
        words = escape(str(v["verdict"]).split(" by ")[0])  # the numbers stand beside it
        table.add_row(escape(f"{v['a']} − {v['b']}"), cell, f"[{colour}]{words}[/{colour}]")
    return table
