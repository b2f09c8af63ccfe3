"""What goes on the pages: reads the folders, draws the figures, fills the templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from equipoise.budget import show
from equipoise.errors import RecordError
from equipoise.evaluate.table import read
from equipoise.record.folder import write_atomic
from equipoise.report import figures
from equipoise.report.folders import (
    UNITS,
    Exchange,
    Floats,
    Run,
    exchanges,
    load_json,
    load_run,
    training_rollouts,
    visible,
)
from equipoise.trial.result import LOWER_IS_BETTER, START, ArmRuns, evaluation_path, load_arms, number

ITEMS, SAMPLES = 40, 4  # prompts and responses of each that are shown; the Parquet files have all
DIAGNOSTICS = {  # logged number -> (heading, unit)
    "completions/mean_length": ("Length of responses", "tokens"),
    "reward_std": ("Spread of rewards in a group", "standard deviation"),
    "entropy": ("Entropy of the policy", "nats a token"),
    "kl": ("KL to the reference", "nats a token"),
    "mismatch": ("Sampler against learner", "nats a token"),
    "clip_ratio": ("Clipped tokens", "share"),
    "grad_norm": ("Gradient", "norm"),
    "loss": ("Loss", "objective"),
    "nll": ("Negative log-likelihood", "nats a token"),
    "rewards/accuracies": ("Preferred above rejected", "share of pairs"),
    "rewards/margins": ("Preferred minus rejected", "nats"),
    "completions/clipped_ratio": ("Truncated responses", "share"),
    "lr": ("Learning rate", "per step"),
}


@dataclass(frozen=True)
class Tab:
    """One of several pictures in the same place."""

    label: str
    picture: Markup


def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "visible": visible,
        "interval": number,
        "amount": _amount,
        "amounts": _amounts,
        "percent": lambda x: f"{x:.0%}",
    }
    return found


def _amount(x: float | Mapping[str, float] | None) -> str:
    if x is None:
        return "–"
    return show(sum(x.values()) if isinstance(x, Mapping) else x)


def _amounts(limits: Mapping[str, float]) -> str:
    """Quantities with their units: 4e+12 FLOPs, 800 labels."""
    words = {"flops": "FLOPs", "usd": "USD"}
    return ", ".join(f"{_amount(x)} {words.get(u, u.replace('_', ' '))}" for u, x in limits.items())


def _write(folder: Path, template: str, sheet: figures.Sheet, content: Mapping[str, Any]) -> Path:
    page = _templates().get_template(template).render(**content, units=UNITS)
    write_atomic(folder / "report.html", page.encode())
    sheet.png(folder / "report.png")
    return folder / "report.html"


def _against(spends: Sequence[str]) -> dict[str, str]:
    return {"fraction": "budget"} | {f"spent/{unit}": UNITS[unit][0] for unit in spends}


# -- a run -----------------------------------------------------------------------------------------------------------


def run_page(folder: Path) -> Path:
    run = load_run(folder)
    test, start = run.final.get("test") or {}, run.final.get("start") or _trial_start(folder).get("test") or {}
    main = figures.learning_curve(run)
    axes = _against(run.spends())
    content = {
        "title": folder.resolve().name,
        "run": run,
        "final": run.final,
        "curves": [
            Tab(words, figures.learning_curve(run, x).svg(f"scores against {words}")) for x, words in axes.items()
        ],
        "diagnostics": _diagnostics(run),
        "constants": _constants(run),
        "metrics": _metrics(test.get("metrics", {}), start.get("metrics", {})),
        "test": test,
        "spending": _spending(run),
        "clock": _clock(run),
        "exchanges": _run_exchanges(folder),
        "rollouts": training_rollouts(folder),
        "shown": (ITEMS, SAMPLES),
        "looks": figures.looks(["trained"]),
    }
    return _write(folder, "run.html", main, content)


def _diagnostics(run: Run) -> list[tuple[str, Markup]]:
    """Pictures of the logged numbers that changed."""
    found = [(name, *DIAGNOSTICS[name]) for name in DIAGNOSTICS if _changes(run.curve(name)[1])]
    return [(heading, figures.diagnostic(run, name, unit).svg(heading)) for name, heading, unit in found]


def _changes(y: Floats) -> bool:
    return len(y) > 1 and bool(np.ptp(y) > 0)


def _constants(run: Run) -> list[tuple[str, float]]:
    """Headings of the logged numbers that stayed the same, and those numbers."""
    columns = {DIAGNOSTICS[name][0]: run.curve(name)[1] for name in DIAGNOSTICS}
    return [(heading, float(y[0])) for heading, y in columns.items() if len(y) and np.ptp(y) == 0]


def _trial_start(folder: Path) -> Mapping[str, Any]:
    """The final.json of the start model's test in the trial that a run belongs to; empty when there is none yet."""
    path = folder.resolve().parent / START / "final.json"
    return load_json(path) if path.exists() and (folder.resolve().parent / "trial.json").exists() else {}


def _metrics(test: Mapping[str, Any], start: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Rows of the table: shares of right answers first, then rewards and their parts, then what describes the test."""
    order = ("pass@", "maj@", "loss", "preference", "reward", "parts/", "length", "truncated", "failed")
    rank = {name: next((k for k, o in enumerate(order) if name.startswith(o)), len(order)) for name in test}
    names = sorted(test, key=lambda n: (rank[n], int(n.split("@")[1]) if "@" in n else 0, n))
    return [(visible(name), _count(name, start.get(name)), _count(name, test[name])) for name in names]


def _count(name: str, metric: Mapping[str, float] | None) -> Mapping[str, float | None] | None:
    """A count has no interval."""
    return {"value": metric["value"], "low": None, "high": None} if metric and name == "failed" else metric


def _spending(run: Run) -> list[tuple[str, Mapping[str, float]]]:
    """Purpose -> amounts by unit; purposes that cost nothing are left out."""
    found: Mapping[str, Mapping[str, float]] = run.final.get("spent_on") or {}
    rows = [(purpose, amounts) for purpose, amounts in found.items() if purpose != "total" and any(amounts.values())]
    return [*rows, ("total", found["total"])] if "total" in found else rows


def _clock(run: Run) -> list[tuple[str, float, float]]:
    """Where the time went: (what, seconds, share), longest first."""
    names = sorted({name for line in run.timings for name in line if re.fullmatch(r"[a-z]+_s", name)})
    seconds = {name[:-2]: sum(float(line.get(name) or 0.0) for line in run.timings) for name in names}
    whole = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda pair: -pair[1])
    return [(visible(name), s, s / whole) for name, s in ordered if whole and s / whole >= 0.001]


def _run_exchanges(folder: Path) -> list[Exchange]:
    own, shared = folder / "evaluation" / "start.parquet", evaluation_path(folder.resolve().parent / START)
    paths = {"before": own if own.exists() else shared, "after": evaluation_path(folder)}
    tables = {name: read(path) for name, path in paths.items() if path.exists()}
    return exchanges(tables, ITEMS, SAMPLES)


# -- a trial ---------------------------------------------------------------------------------------------------------


def trial_page(folder: Path) -> Path:
    if not (folder / "result.json").exists():
        raise RecordError(f"{folder} has no result.json: it is no trial, or none of it has ended; run it or resume it")
    settings, result = load_json(folder / "trial.json"), load_json(folder / "result.json")
    arms = load_arms(folder, settings)
    runs = {arm.name: [load_run(path) for path in arm.folders] for arm in arms if arm.name != START}
    metric = result["verdicts"][0]["metric"] if result["verdicts"] else "pass@1"
    scored = [_scored(arm, result, metric) for arm in arms if metric in arm.metrics]
    held_out = next((run.held_out for those in runs.values() for run in those if run.held_out), None)
    content = {
        "title": folder.resolve().name,
        "result": result,
        "settings": settings,
        "metric": metric,
        "looks": figures.looks([arm.name for arm in arms]),
        "groups": _verdict_groups(result["verdicts"]),
        "forest": figures.differences(_ordered(result["verdicts"])).svg("differences between arms")
        if result["verdicts"]
        else None,
        "failed": _failed(result.get("failed", ())),
        "validation": _arm_curves(runs, held_out),
        "rewards": _arm_curves(runs, "reward"),
        "pareto": _pareto(scored, metric, settings["budget"]),
        "columns": _columns(result["arms"], metric),
        "spends": _spent_units(result["arms"]),
        "exchanges": _trial_exchanges(arms),
        "shown": (ITEMS, 2),
    }
    picture = figures.trial_picture(runs, held_out, scored, metric)
    return _write(folder, "trial.html", picture, content)


def _scored(arm: ArmRuns, result: Mapping[str, Any], metric: str) -> figures.Scored:
    summary = next(a for a in result["arms"] if a["method"] == arm.name)["metrics"][metric]
    spent = [
        {u: sum(x.values()) if isinstance(x, Mapping) else x for u, x in f.get("spent", {}).items()} for f in arm.finals
    ]
    seeds = tuple(float(v) for v in arm.metrics[metric].mean(axis=1)) if arm.name != START else ()
    return figures.Scored(arm.name, summary["value"], summary["low"], summary["high"], seeds, tuple(spent))


def _verdict_groups(verdicts: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Verdicts against the start model, then between methods."""
    against = [v for v in verdicts if START in (v["a"], v["b"])]
    between = [v for v in verdicts if START not in (v["a"], v["b"])]
    return [
        (name, those) for name, those in (("Against the start model", against), ("Between methods", between)) if those
    ]


def _ordered(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As the tables have them."""
    return [v for _, those in _verdict_groups(verdicts) for v in those]


def _failed(failures: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[int], str]]:
    """Arm, seeds and reason; seeds that failed for the same reason together."""
    found: dict[tuple[str, str], list[int]] = {}
    for f in failures:
        found.setdefault((f["method"], str(f["reason"])), []).extend([] if f["seed"] is None else [f["seed"]])
    return [(visible(method), seeds, visible(reason)) for (method, reason), seeds in found.items()]


def _arm_curves(runs: Mapping[str, Sequence[Run]], name: str | None) -> list[Tab]:
    every = [run for those in runs.values() for run in those]
    if name is None or not any(len(run.curve(name)[0]) > 1 for run in every):
        return []
    spends = [unit for unit in UNITS if any(unit in run.spends() for run in every)]
    return [
        Tab(words, figures.arm_curves(runs, name, x).svg(f"{name} of every arm against {words}"))
        for x, words in _against(spends).items()
    ]


def _pareto(scored: Sequence[figures.Scored], metric: str, budget: Mapping[str, float]) -> list[Tab]:
    """One picture a unit; those that the budget makes equal come last, for they tell least."""
    units = [u for u in UNITS if any(s.get(u, 0.0) > 0 for arm in scored for s in arm.spent)]
    units.sort(key=lambda u: u in budget)
    higher = metric not in LOWER_IS_BETTER
    return [
        Tab(UNITS[u][0], figures.pareto(scored, metric, u, higher).svg(f"score against {UNITS[u][0]}")) for u in units
    ]


def _columns(arms: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Metrics for the table of arms besides the verdicts' own; parts last."""
    names = list(dict.fromkeys(name for arm in arms for name in arm["metrics"]))
    rest = [n for n in names if n != metric and not n.startswith("parts/")]
    return [*rest, *(n for n in names if n.startswith("parts/") and n != metric)]


def _spent_units(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    return [unit for unit in UNITS if any(arm["spent"].get(unit) for arm in arms)]


def _trial_exchanges(arms: Sequence[ArmRuns]) -> list[Exchange]:
    """The start model, then each arm's first seed, on the same prompts."""
    ordered = sorted(arms, key=lambda arm: arm.name != START)
    return exchanges({arm.name: read(evaluation_path(arm.folders[0])) for arm in ordered}, ITEMS, 2)
