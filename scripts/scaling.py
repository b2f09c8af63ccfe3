"""Make the tables and pictures of docs/scaling.md by simulation: nothing in them is a measurement.

python scripts/scaling.py            # some minutes; writes the page's tables and docs/scaling-*.png
python scripts/scaling.py cases      # only the tables named
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from equipoise.plan import picture
from equipoise.plan.cluster import Cluster
from equipoise.plan.report import Planned, plan
from equipoise.plan.roofline import least_learners
from equipoise.plan.split import Tried, best, search

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "scaling.md"
ADAPTER = 0.01  # share of the parameters, where the optimiser of all would not fit
MORE = 4096  # prompts a step, where 512 are too few for the accelerators
BASE = Cluster()


@cache
def tried(model: str, gpus: int, prompts: int = BASE.prompts, **more: float) -> tuple[Tried, ...]:
    """All splits; of what is changed from the base, only those with samplers of the size that is best there."""
    size = best(tried(model, gpus)).sampler_gpus if more or prompts != BASE.prompts else None
    c = Cluster(model=model, prompts=prompts, **more)  # type: ignore[arg-type]
    if least_learners(c) >= gpus:
        c = replace(c, trainable=ADAPTER)
    return tuple(search(c, gpus, size))


@cache
def found(model: str, gpus: int, prompts: int = BASE.prompts, **more: float) -> Planned:
    """The best split, simulated at length."""
    return plan(best(tried(model, gpus, prompts, **more)))


CASES = [("7b", 8), ("7b", 64), ("7b", 1024), ("7b", 1024, MORE)]
CASES += [("70b", 8), ("70b", 64), ("70b", 1024), ("70b", 1024, MORE)]


def split(c: Cluster) -> str:
    return f"{c.learners} + {c.samplers} x {c.sampler_gpus}"


def name(p: Planned) -> str:
    c = p.cluster
    return f"{c.shape.name}{' adapter' if c.trainable < 1 else ''} | {c.gpus:,} | {c.prompts:,}"


def share(x: float) -> str:
    return f"{100 * x:.0f}%" if abs(x) >= 0.0005 else "0%"


def table(head: str, rows: Iterable[str]) -> list[str]:
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)]


def cases() -> list[str]:
    head = "model | GPUs | prompts | learners + samplers x GPUs | s a step | tokens/s | a GPU"
    head += " | generate | learn | idle | bound by"

    def row(p: Planned) -> str:
        o = p.outcome
        speed = f"{o.seconds_a_step:.1f} | {o.tokens_a_second:,.0f} | {o.tokens_a_second / p.cluster.gpus:,.0f}"
        time = f"{share(o.samplers['generate'])} | {share(o.learner['learn'])} | {share(o.idle)}"
        return f"{name(p)} | {split(p.cluster)} | {speed} | {time} | {o.bound}"

    return table(head, (row(found(*case)) for case in CASES))


def generation() -> list[str]:
    head = (
        "model | GPUs | prompts | in flight | weights | cache | constant | compute, prompts | equal lengths would gain"
    )

    def row(p: Planned) -> str:
        g = p.generation
        parts = [g["weights"], g["cache"], g["constant"], g["compute"] + g["prompts"]]
        return f"{name(p)} | {p.in_flight:.0f} | {' | '.join(map(share, parts))} | {share(p.ragged)}"

    return table(head, (row(found(*case)) for case in CASES))


def ahead() -> list[str]:
    def row(model: str, k: int) -> str:
        p = found(model, 64, ahead=k)
        o = p.outcome
        return f"{model} | {k} | {split(p.cluster)} | {o.seconds_a_step:.1f} | {share(o.idle)} | {o.bound}"

    head = "model, 64 GPUs | ahead | best split | s a step | idle | bound by"
    return table(head, (row(model, k) for model in ("7b", "70b") for k in (0, 1, 2)))


def launching() -> list[str]:
    """One driver against samplers that go on by themselves, on the same cluster."""

    def row(model: str, gpus: int, k: int, launch: str) -> str:
        o = plan(replace(found(model, gpus).cluster, ahead=k, launch=launch)).outcome
        time = f"{share(o.samplers['tail'])} | {share(o.samplers['weights'])}"
        return f"{model} on {gpus:,} | {k} | {launch} | {o.seconds_a_step:.1f} | {time}"

    rows = (
        row(*where, k, launch) for where in (("7b", 64), ("7b", 1024)) for k in (1, 2) for launch in ("driver", "free")
    )
    return table("cluster, split as above | ahead | launched by | s a step | tail | wait for weights", rows)


def publication() -> list[str]:
    base = found("70b", 1024).cluster

    def row(text: str, senders: int | None, publish: str) -> str:
        p = plan(replace(base, senders=senders, publish=publish))
        return f"{text} | {publish} | {p.send_s:.1f} | {p.outcome.seconds_a_step:.1f} | {p.outcome.bound}"

    ways = [("every learner sends its part", None), ("one node sends", 8), ("one GPU sends", 1)]
    rows = (row(text, senders, publish) for text, senders in ways for publish in ("held", "background"))
    return table("70b on 1,024, 512 prompts | learners meanwhile | s a publication | s a step | bound by", rows)


def spread() -> list[str]:
    base = found("7b", 64).cluster

    def row(sigma: float) -> str:
        o = plan(replace(base, spread=sigma)).outcome
        return f"{sigma} | {o.seconds_a_step:.1f} | {share(o.samplers['tail'])} | {o.tokens_a_second:,.0f} | {o.bound}"

    head = "spread of lengths (7b on 64, same split) | s a step | tail | tokens/s | bound by"
    return table(head, map(row, (0.0, 0.4, 0.8, 1.2)))


def assumptions() -> list[str]:
    changed: list[tuple[str, dict[str, float]]] = [
        ("as above", {}),
        ("mfu 0.25", {"mfu": 0.25}),
        ("memory_use 0.4", {"memory_use": 0.4}),
        ("token_step_s 0.001", {"token_step_s": 0.001}),
        ("token_step_s 0.01", {"token_step_s": 0.01}),
        ("rows 128", {"rows": 128}),
    ]

    def row(text: str, more: dict[str, float]) -> str:
        p = found("7b", 64, **more)
        return f"{text} | {split(p.cluster)} | {p.outcome.seconds_a_step:.1f} | {p.outcome.tokens_a_second:,.0f}"

    return table("7b on 64 | best split | s a step | tokens/s", (row(*each) for each in changed))


TABLES: dict[str, Callable[[], list[str]]] = {
    f.__name__: f for f in (cases, generation, ahead, launching, publication, spread, assumptions)
}


def pictures() -> None:
    """Splits of both models at all sizes; some steps of one cluster."""
    for model in ("7b", "70b"):
        curves = [
            (f"{model}{' adapter' if _adapter(model, n) else ''} on {n:,}", tried(model, n)) for n in (8, 64, 1024)
        ]
        picture.curve(curves, DOCS / f"scaling-split-{model}.png")
    p = found("7b", 1024)
    title = f"7b on 1,024: {split(p.cluster)}, ahead=1; the first samplers"
    picture.gantt(p.outcome.trace, p.outcome.window, DOCS / "scaling-steps.png", title)


def _adapter(model: str, gpus: int) -> bool:
    return tried(model, gpus)[0].cluster.trainable < 1


def put(text: str, part: str, lines: Sequence[str]) -> str:
    """The page with the lines of one table between its two marks. Raises ValueError without them."""
    pattern = rf"(<!-- {part} -->\n).*?(<!-- end -->)"
    changed, times = re.subn(pattern, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text, count=1, flags=re.S)
    if not times:
        raise ValueError(f"{PAGE} has no place for the table {part}")
    return changed


def main() -> None:
    console = Console()
    asked = sys.argv[1:] or [*TABLES, "pictures"]
    for part in asked:
        if part == "pictures":
            pictures()
        else:
            PAGE.write_text(put(PAGE.read_text(), part, TABLES[part]()))
        console.print(f"made: {part}")


if __name__ == "__main__":
    main()
