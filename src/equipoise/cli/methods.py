"""equipoise methods [WORDS] [--json]: what there is to train with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from equipoise import recipes
from equipoise.cli import options
from equipoise.cli.options import Flag


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("words", tuple[str, ...], (), "show only methods that mention all of these", positional=True),
        Flag("json", bool, False, "print JSON"),
    ]
    v = options.parse("equipoise methods", "List the methods.", flags, args)
    rows = [_row(name) for name in recipes.names()]
    rows = [r for r in rows if all(w.lower() in json.dumps(r).lower() for w in v["words"])]
    if v["json"]:
        print(json.dumps(rows, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "family", "paper", "needs", "what it does")
    for r in rows:
        table.add_row(r["name"], r["family"], r["arxiv"] or "", ", ".join(r["needs"]), f"{r['title']}. {r['summary']}")
    Console().print(table)
    return 0


def _row(name: str) -> dict[str, Any]:
    about = recipes.method(name).about
    return {
        "name": name,
        "title": about.title,
        "arxiv": about.arxiv,
        "family": about.family,
        "summary": about.summary,
        "needs": list(about.needs),
    }
