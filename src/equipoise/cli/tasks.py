"""equipoise tasks [WORDS] [--json]: what there is to train on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.cli import options
from equipoise.cli.options import Flag
from equipoise.tasks import TaskEntry, catalog, datasets


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("words", tuple[str, ...], (), "show only tasks that mention all of these", positional=True),
        Flag("json", bool, False, "print JSON"),
    ]
    v = options.parse("equipoise tasks", "List the tasks.", flags, args)
    words = [w.lower() for w in v["words"]]
    rows = [r for r in map(_row, catalog()) if all(w in json.dumps(r).lower() for w in words)]
    rows += [_row(e) for e in (datasets() if words else ()) if all(w in f"{e.name} {e.title}".lower() for w in words)]
    if v["json"]:
        print(json.dumps(rows, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "what it asks", "knobs (--task.<knob>)")
    for r in rows:
        table.add_row(str(r["name"]), f"{r['title']}. {r['summary']}", _knobs(r["knobs"]))
    Console().print(table)
    print(
        "`equipoise train METHOD --task NAME --help` lists the flags of one task; docs/tasks-and-data.md explains them."
    )
    return 0


def _row(e: TaskEntry) -> dict[str, Any]:
    return {"name": e.name, "title": e.title, "summary": e.summary, "knobs": _plain(e.knobs)}


def _knobs(knobs: Mapping[str, Any]) -> str:
    """Knobs as flags are spelled; those whose value is a column's name come last, by name alone."""
    columns = [k for k, x in knobs.items() if x == k]
    shown = [f"{k.replace('_', '-')}={'none' if x is None else x}" for k, x in knobs.items() if k not in columns]
    return ", ".join(shown) + (f"; names of columns: {', '.join(columns)}" if columns else "")


def _plain(knobs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: x if isinstance(x, (int, float, str, bool, type(None))) else str(x) for k, x in knobs.items()}
