"""What bounds a simulated cluster, and what to change, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping

from equipoise.plan.report import BALANCED, Outcome, Planned

LARGE = 0.05  # a share or a gain worth a sentence
PARTS = {
    "prompts": "reading prompts",
    "weights": "reading weights from memory",
    "cache": "reading keys and values from memory",
    "compute": "computing",
    "constant": "the constant of a token step",
}


def advice(p: Planned) -> list[str]:
    """Sentences, the most important first."""
    return [_bound(p.outcome), *_generation(p), *_learning(p), *_ahead(p)]


def brief(o: Outcome) -> list[str]:
    """Of a cluster whose pieces were measured, so that nothing is known of what is inside them."""
    return [_bound(o)]


def percent(x: float) -> str:
    return f"{100 * x:.0f}%"


def _bound(o: Outcome) -> str:
    parts = {name: gain for name, gain in o.gains.items() if name != "one step further ahead"}
    first = max(parts, key=lambda name: parts[name])
    if o.bound == "balanced":
        return "generation and learning take turns evenly: no part alone, made faster, speeds up the whole by 2%"
    if o.bound == "turns":
        gain = percent(o.gains["one step further ahead"])
        return f"samplers and learners wait for each other: one step further ahead gains {gain}"
    return f"{first} bounds the whole: twice as fast, it gains {percent(parts[first])}"


def _generation(p: Planned) -> list[str]:
    found = []
    if p.outcome.bound in ("generation", "turns"):
        parts: Mapping[str, float] = p.generation
        most = max(parts, key=lambda name: parts[name])
        found.append(
            f"generation mostly goes to {PARTS[most]} ({percent(parts[most])}); on average {p.in_flight:.0f} responses "
            "are in flight in a sampler"
        )
    if p.ragged > LARGE:
        found.append(f"equally long responses would gain {percent(p.ragged)}: samplers end with few in flight")
    if p.cluster.samplers > p.cluster.prompts:
        idle = p.cluster.samplers - p.cluster.prompts
        found.append(f"{idle} samplers have nothing to do: there are fewer prompts, whose samples stay together")
    return found


def _learning(p: Planned) -> list[str]:
    found, whole = [], p.learning.seconds
    if p.learning.exchange_s > LARGE * whole:
        share = percent(p.learning.exchange_s / whole)
        found.append(
            f"{share} of learning waits for weights and gradients of other ranks: more tokens a step, or fewer ranks"
        )
    if p.learning.uneven_s > LARGE * whole:
        found.append(
            f"{percent(p.learning.uneven_s / whole)} of learning waits for the rank with the longest responses"
        )
    if p.outcome.gains["publication"] > BALANCED:
        found.append(f"publication takes {p.send_s:.1f} s: send from more links, or in the background")
    return found


def _ahead(p: Planned) -> list[str]:
    gain = p.outcome.gains.get("one step further ahead", 0.0)
    if gain < BALANCED or p.outcome.bound == "turns":
        return []
    return [f"ahead={p.cluster.ahead + 1} would gain {percent(gain)}"]
