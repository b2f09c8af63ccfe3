"""How to split accelerators between learners and samplers: a small search over simulated clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from equipoise.errors import ArgumentError
from equipoise.plan.cluster import Cluster
from equipoise.plan.pipeline import simulate
from equipoise.plan.report import durations, simulated, window
from equipoise.plan.roofline import Roofline, least_learners
from equipoise.plan.work import Draw, draw

POINTS = 16  # numbers of learners tried, at most
STEPS = 2  # in the window of each


def candidates(c: Cluster, gpus: int, sizes: Sequence[int], learners: Sequence[int]) -> list[Cluster]:
    """Clusters of at most ``gpus`` accelerators on which the model fits."""
    least = max(least_learners(c), c.senders or 1)
    found = []
    for size in sizes:
        for ranks in learners:
            samplers = (gpus - ranks) // size
            if ranks >= least and samplers:
                one = replace(c, learners=ranks, samplers=samplers, sampler_gpus=size)
                if _fits(one):
                    found.append(one)
    return found


def _fits(c: Cluster) -> bool:
    try:
        Roofline(c)
    except ArgumentError:
        return False
    return True


@dataclass(frozen=True)
class Tried:
    """A split and its throughput, generated tokens a second."""

    cluster: Cluster
    tokens_a_second: float


def search(c: Cluster, gpus: int, sampler_gpus: int | None = None, learners: int | None = None) -> list[Tried]:
    """Every candidate, simulated over a few steps; given sizes are not varied. Raises ArgumentError when none fits."""
    sizes = [sampler_gpus] if sampler_gpus else [s for s in (1, 2, 4, 8) if s <= c.figures.node]
    unit = max(1, gpus // POINTS)
    tried = candidates(c, gpus, sizes, [learners] if learners else range(unit, gpus, unit))
    if not tried:
        least = least_learners(c)
        raise ArgumentError(
            f"{c.shape.name} fits no split of {gpus} x {c.figures.name}: learners alone need {least}, and a sampler "
            f"needs room for the weights and for one response of {c.prompt_tokens + c.response_max} tokens. Take more "
            "accelerators, or train an adapter (trainable below 1)."
        )
    draws = [draw(c, s) for s in range(STEPS)]
    return [Tried(one, _throughput(one, draws)) for one in tried]


def _throughput(c: Cluster, draws: Sequence[Draw]) -> float:
    d = durations(Roofline(c), draws, simulated(c.ahead, STEPS))
    w = window(simulate(d, c.ahead), c.ahead, STEPS)
    return sum(each.tokens for each in draws) / (w.end - w.start)


def best(tried: Sequence[Tried]) -> Cluster:
    """The highest throughput; of equals the first."""
    return max(tried, key=lambda t: t.tokens_a_second).cluster
