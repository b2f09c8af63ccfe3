"""equipoise plan [--cluster FILE] [--gpus N --split auto] | --from RUN: what a cluster would do, by simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.cli import options
from equipoise.cli.options import Flag
from equipoise.errors import ArgumentError

if TYPE_CHECKING:
    from equipoise.plan.report import Outcome, Planned
    from equipoise.plan.split import Tried

HELP = (
    "Simulate a cluster's pipeline of samplers, publication and learners: seconds a step, who waits for whom, what "
    "bounds it and what to change. Computed from data sheets and stated assumptions, or from a measured run; no model "
    "is loaded."
)
TYPES = {"int": int, "float": float, "str": str, "int | None": int}


def main(args: Sequence[str]) -> int:
    flags = [*_general(), *_of_cluster()]
    v = options.parse("equipoise plan", HELP, flags, args)
    given = {f.name: v[f.name] for f in flags if f.default is None and v[f.name] is not None}
    if "from" in given:
        return _predict(given, v)
    if wrong := [n for n in ("cores", "exchange-s") if n in given]:
        raise ArgumentError(f"--{wrong[0]} is for processes that were measured; give the run with --from as well")
    return _simulate(given, v)


def _general() -> list[Flag]:
    return [
        Flag("cluster", str | None, None, "a TOML file with any of the numbers below, under their names with _ for -"),
        Flag("gpus", int | None, None, "accelerators in all, to be split"),
        Flag("split", str | None, None, "of --gpus: auto, or how many learn"),
        Flag("from", str | None, None, "a run of 1 learner and 1 sampler, whose timings are scaled instead"),
        Flag("cores", int | None, None, "with --from: of the one machine that all processes share"),
        Flag("exchange-s", float | None, None, "with --from: seconds a step that ranks exchange tensors (default: 0)"),
        Flag("json", bool, False, "print JSON"),
        Flag("out", str | None, None, "a folder for plan.json and pictures"),
    ]


def _of_cluster() -> list[Flag]:
    """The numbers of a cluster; None where they are not given."""
    from equipoise.plan.cluster import Cluster

    found = []
    for f in fields(Cluster):
        default = "" if f.default is None else f" (default: {f.default})"
        kind = TYPES.get(str(f.type), str)
        found.append(Flag(f.name.replace("_", "-"), kind | None, None, f.metadata["help"] + default))
    return found


def _numbers(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The cluster's numbers that flags and file give. Raises ArgumentError when both give one."""
    from equipoise.plan import cluster

    mine = {name.replace("-", "_"): value for name, value in given.items() if name.replace("-", "_") in known}
    stored = cluster.read(Path(given["cluster"])) if "cluster" in given else {}
    if both := sorted(mine.keys() & stored.keys()):
        flag = both[0].replace("_", "-")
        raise ArgumentError(f"--{flag} and {both[0]} in {given['cluster']} are both given; leave one of them out")
    return {**stored, **mine}


# -- from data sheets -----------------------------------------------------------------------------------------------


def _simulate(given: dict[str, Any], v: dict[str, Any]) -> int:
    from equipoise.plan.cluster import Cluster
    from equipoise.plan.report import plan
    from equipoise.plan.split import best

    numbers = _numbers(given, {f.name for f in fields(Cluster)})
    tried: list[Tried] = []
    if "gpus" in given or "split" in given:
        tried = _splits(given, numbers)
        chosen = best(tried)
    else:
        chosen = Cluster(**numbers)
    found = plan(chosen)
    if v["out"]:
        _keep(Path(v["out"]), found, tried)
    if v["json"]:
        print(json.dumps({**found.json(), "splits": _rows(tried)}))
    else:
        _show(found, tried)
    return 0


def _splits(given: dict[str, Any], numbers: dict[str, Any]) -> list[Tried]:
    """The splits that were asked for, simulated."""
    from equipoise.plan.cluster import Cluster
    from equipoise.plan.split import search

    for name in ("learners", "samplers"):
        if name in numbers:
            raise ArgumentError(f"--gpus with --split says how many {name} there are; leave {name} out")
    if "gpus" not in given or "split" not in given:
        raise ArgumentError("--gpus and --split go together: --gpus 64 --split auto, or --gpus 64 --split 24")
    gpus, size = given["gpus"], numbers.pop("sampler_gpus", None)
    senders = numbers.get("senders")
    base = Cluster(**{**numbers, "learners": max(senders or 1, 1)})
    learners = None
    if given["split"] != "auto":
        try:
            learners = options.whole(given["split"])
        except ValueError as e:
            raise ArgumentError(f"--split is {given['split']!r}; expected auto or a number of learners") from e
        if not 0 < learners < gpus:
            raise ArgumentError(f"--split {learners} of --gpus {gpus} leaves no learner or no sampler")
    return search(base, gpus, size, learners)


def _rows(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    names = ("learners", "samplers", "sampler_gpus")
    return [{**{n: getattr(t.cluster, n) for n in names}, "tokens_a_second": t.tokens_a_second} for t in tried]


def _keep(folder: Path, found: Planned, tried: Sequence[Tried]) -> None:
    from equipoise.plan import picture

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps({**found.json(), "splits": _rows(tried)}, indent=2) + "\n")
    picture.gantt(found.outcome.trace, found.outcome.window, folder / "plan.png", _title(found))
    if len(tried) > 1:
        picture.curve([(f"{found.cluster.shape.name} on {found.cluster.gpus}", tried)], folder / "split.png")


def _title(p: Planned) -> str:
    c = p.cluster
    parts = f"{_count(c.learners, 'learner')}, {_count(c.samplers, 'sampler')} of {c.sampler_gpus}, ahead={c.ahead}"
    return f"{c.shape.name} on {c.gpus} x {c.figures.name}: {parts}"


def _show(p: Planned, tried: Sequence[Tried]) -> None:
    from rich.console import Console

    from equipoise.plan.advice import advice

    console = Console()
    if len(tried) > 1:
        console.print(f"the best of {len(tried)} splits:")
    _table(console, _title(p), p.outcome)
    for line in advice(p):
        console.print(f"- {line}")
    console.print("Simulated, not measured: from data sheets and the assumptions that --help lists.")


def _table(console: Any, title: str, o: Outcome) -> None:
    from rich.table import Table

    table = Table("", "", title=title, title_justify="left", show_header=False)
    table.add_row("seconds a step", f"{o.seconds_a_step:.4g}")
    table.add_row("generated tokens a second", f"{o.tokens_a_second:,.0f}")
    for who, states in (("learners", o.learner), ("samplers, mean", o.samplers)):
        table.add_row(who, ", ".join(f"{name} {100 * share:.1f}%" for name, share in states.items()))
    table.add_row("idle, of all", f"{100 * o.idle:.1f}%")
    table.add_row("staleness, at most", _count(o.staleness, "step"))
    gains = (f"{name} {100 * gain:+.1f}%" for name, gain in o.gains.items())
    table.add_row("gain of a part twice as fast, or of more ahead", ", ".join(gains))
    table.add_row("bound by", o.bound)
    console.print(table)


# -- from a run -------------------------------------------------------------------------------------------------------


def _predict(given: dict[str, Any], v: dict[str, Any]) -> int:
    from equipoise.plan import calibrate

    known = {f.name for f in fields(calibrate.Target)}
    foreign = [n for n in given if n.replace("-", "_") not in known and n not in ("from", "out")]
    if foreign:
        raise ArgumentError(f"--{foreign[0]} and --from contradict each other: the run says what its pieces take")
    run = Path(given["from"])
    target = calibrate.Target(**{n.replace("-", "_"): x for n, x in given.items() if n.replace("-", "_") in known})
    steps = calibrate.measured(run)
    fitted = calibrate.fit(run, steps)
    found = calibrate.predict(fitted, steps, target)
    document = calibrate.document(fitted, target, found)
    if v["out"]:
        from equipoise.plan import picture

        folder = Path(v["out"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(document, indent=2) + "\n")
        picture.gantt(found.trace, found.window, folder / "plan.png", _predicted(target))
    if v["json"]:
        print(json.dumps(document))
        return 0
    from rich.console import Console

    from equipoise.plan.advice import brief

    console = Console()
    _table(console, _predicted(target), found)
    for line in brief(found):
        console.print(f"- {line}")
    console.print(f"Predicted from {fitted.steps} measured steps of {run}; the fit misses generation by ", end="")
    console.print(f"{100 * fitted.generate_error:.0f}% and learning by {100 * fitted.learn_error:.0f}% a step.")
    return 0


def _predicted(target: Any) -> str:
    return f"{_count(target.learners, 'learner')}, {_count(target.samplers, 'sampler')}, ahead={target.ahead}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
