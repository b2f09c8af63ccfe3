"""Write docs/methods.md: every method, and which parts how many of them are made of. `--check` only compares."""

from __future__ import annotations

import inspect
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from equipoise import recipes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
ROOMS = ("sources", "signals", "credit", "objectives", "decoders")


def page() -> str:
    """The whole page as Markdown."""
    every = [recipes.method(name) for name in recipes.names()]
    sources = {m.name: inspect.getsource(sys.modules[m.build.__module__]) for m in every}
    lengths = {name: len(text.splitlines()) for name, text in sources.items()}
    used: dict[str, set[str]] = defaultdict(set)
    for name, text in sources.items():
        for room, part in re.findall(rf"\b({'|'.join(ROOMS)})\.(\w+)\(", text):
            used[f"{room}.{part}"].add(name)
    lines = [
        "# Methods",
        "",
        "Made by `python scripts/methods_page.py` from the recipes themselves. Each method is one file in",
        "`src/equipoise/recipes/`; its header holds the mathematics and what it deviates from.",
        "`equipoise methods WORDS` searches this list.",
        "",
        f"{len(every)} methods; lines of a recipe: median {statistics.median(lengths.values()):.0f}, longest "
        f"{max(lengths.values())}. They are made of {len(used)} parts.",
        "",
        "| method | what it is | paper | needs | lines |",
        "|---|---|---|---|---|",
    ]
    for m in every:
        arxiv = m.about.arxiv
        paper = f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else ""
        needs = ", ".join(m.about.needs) or "prompts only"
        lines.append(f"| `{m.name}` | {m.about.summary} | {paper} | {needs} | {lengths[m.name]} |")
    lines += ["", "## Parts", "", "| part | methods | used by |", "|---|---|---|"]
    for part, names in sorted(used.items(), key=lambda kv: (-len(kv[1]), kv[0])):
        shown = ", ".join(f"`{n}`" for n in sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
        lines.append(f"| `{part}` | {len(names)} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    new = page()
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text() != new)
    PAGE.write_text(new)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
