"""equipoise claims [WORDS] | run ID | smoke [ID ...] | show ID | docs: what papers say, put to the test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from equipoise.claims import ledger
from equipoise.cli import EXIT_FAILED, options
from equipoise.cli.options import Flag
from equipoise.errors import ArgumentError

HELP = (
    "What papers say, put to the test: list the claims, or `claims run ID`, `claims smoke [ID ...]`, `claims show ID`, "
    "`claims docs`."
)


def main(args: Sequence[str]) -> int:
    commands = {"run": _run, "smoke": _smoke, "show": _show, "docs": _docs}
    if args and args[0] in commands:
        return commands[args[0]](args[1:])
    flags = [
        Flag("words", tuple[str, ...], (), "show only claims that mention all of these", positional=True),
        Flag("json", bool, False, "print JSON"),
    ]
    v = options.parse("equipoise claims", HELP, flags, args)
    rows = [(c, ledger.row(c)) for c in ledger.search(v["words"])]
    if v["json"]:
        print(json.dumps([r for _, r in rows], indent=1))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("claim", "method", "says", "d [95% interval]", "seeds", "verdict")
    for c, r in rows:
        told = f"{r['estimate']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" if r["verdict"] else ""
        table.add_row(c.id, c.method, c.title, escape(told), str(r["seeds"] or ""), r["verdict"] or "not run")
    Console().print(table)
    return 0


def _run(args: Sequence[str]) -> int:
    flags = [
        Flag("id", str, help="of the claim, as P386", positional=True),
        Flag("seeds", int | None, None, "how many fresh seeds (default: the spec's)"),
        Flag("jobs", int, 2, "processes; each gets cores/jobs threads"),
        Flag("out", str | None, None, "directory of the runs (default: runs/claims/<ID>-s<first seed>)"),
    ]
    v = options.parse(
        "equipoise claims run", "Run a claim on fresh seeds; again after a stop: it goes on.", flags, args
    )
    from equipoise.claims.run import run
    from equipoise.report import report_trial

    name = ledger.claim(v["id"]).id
    out = Path(v["out"]) if v["out"] else None
    found = run(name, v["seeds"], v["jobs"], out)
    folder = out or Path("runs") / "claims" / f"{name}-s{found['seeds'][0]}"
    print(f"report: {report_trial(folder / 'trial')}")
    _tell(found)
    return 0


def _smoke(args: Sequence[str]) -> int:
    flags = [
        Flag("ids", tuple[str, ...], (), "of the claims, as P386 (default: all)", positional=True),
        Flag("share", float | None, None, "of each claim's budget (default: as its spec says, mostly 0.1)"),
        Flag("jobs", int, 2, "processes; each gets cores/jobs threads"),
        Flag("out", str | None, None, "directory to keep the runs in (default: none is kept)"),
        Flag("json", bool, False, "print JSON"),
    ]
    about = "Try claims small before they are run: every arm on one seed, and all that a verdict needs. Stores nothing."
    v = options.parse("equipoise claims smoke", about, flags, args)
    if v["share"] is not None and not 0 < v["share"] <= 1:
        raise ArgumentError(f"--share is {v['share']:g}; expected a share of the budget in (0, 1]")
    from equipoise.claims.smoke import smoke

    found: list[dict[str, Any]] = []
    for claim in [ledger.claim(name) for name in v["ids"]] or ledger.claims():
        with TemporaryDirectory() as scratch:
            tried = smoke(claim, Path(v["out"] or scratch) / claim.id, v["share"], v["jobs"])
        found.append(asdict(tried) | {"minutes": tried.minutes(claim)})
        if not v["json"]:
            _tell_smoke(found[-1])
    if v["json"]:
        print(json.dumps(found, indent=1))
    return EXIT_FAILED if any(each["faults"] for each in found) else 0


def _tell_smoke(tried: Mapping[str, Any]) -> None:
    """A line for a claim, and one for each fault."""
    arms = "; ".join(
        f"{name}: {'+'.join(str(n) for n in stages.values())} updates" for name, stages in tried["updates"].items()
    )
    state = "fails" if tried["faults"] else "ready"
    print(f"{tried['id']}  {state}  {arms}  (about {tried['minutes']:.0f} min of training by one worker)", flush=True)
    for fault in tried["faults"]:
        print(f"  {fault['where']}: {fault['reason']}", flush=True)


def _show(args: Sequence[str]) -> int:
    flags = [Flag("id", str, help="of the claim, as P386", positional=True), Flag("json", bool, False, "print JSON")]
    v = options.parse("equipoise claims show", "What the paper says, what was run, and what came of it.", flags, args)
    c = ledger.claim(v["id"])
    past = ledger.results(c.id)
    if v["json"]:
        print(json.dumps(ledger.row(c) | {"says": c.says, "differs": c.differs, "results": past}, indent=1))
        return 0
    print(f"{c.id}  {c.title}  (arXiv {c.arxiv})\n\nThe paper: {c.says}\nHere it differs: {c.differs}")
    print(f"Tested: {c.deciding}, by at least {c.matters:g}; {c.model} on {c.task}, {c.budget}")
    for arm in c.arms:
        print(f"  {arm.label}: {arm.method} {dict(arm.arguments) or ''}".rstrip())
    for found in past:
        _tell(found)
    if not past:
        print(f"\nnot run yet: equipoise claims run {c.id}")
    return 0


def _docs(args: Sequence[str]) -> int:
    flags = [Flag("out", str, "docs", "the folder to write claims.md and its picture into")]
    v = options.parse("equipoise claims docs", "Write the page and the picture of all claims.", flags, args)
    from equipoise.claims.docs import write

    for path in write(Path(v["out"])):
        print(path)
    return 0


def _tell(r: Mapping[str, Any]) -> None:
    """A result for a terminal: verdict, contrasts, arms with their learning curves."""
    more = f" (about {r['more_seeds']} more seeds would)" if r["more_seeds"] else ""
    print(f"\n{r['verdict']}{more}: d = {_d(r)}, {len(r['seeds'])} seeds, {r['date']}, spec at {r['commit'][:40]}")
    for x in r["also"]:
        print(f"  also {x['metric']}, {x['better']} against {x['worse']}: {_d(x)}")
    metric = r["contrast"]["metric"]
    for name, m in r["measured"].items():
        value = m["metrics"].get(metric, {}).get("value")
        told = "" if value is None else f"{value:.3f}"
        curve = r["curves"].get(name) or []
        ends = f"  validation {curve[0][1]:.3f} {_spark([y for _, y in curve])} {curve[-1][1]:.3f}" if curve else ""
        print(f"  {name:16} {metric} {told}{ends}")


def _d(r: Mapping[str, Any]) -> str:
    return f"{r['estimate']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"


def _spark(values: Sequence[float]) -> str:
    """A curve as one line of blocks, from its lowest to its highest value."""
    low, span = min(values), max(values) - min(values)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (v - low) / span) if span else 0] for v in values)
