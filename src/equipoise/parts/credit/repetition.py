"""Less reward for saying the same thing again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.protocols import Part, lift
from equipoise.types import Group


def repeated(ids: Sequence[int], n: int) -> float:
    """Share of a sequence's n-grams that occurred in it before; 0 for fewer than n tokens."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def penalise_repetition(n: int, weight: float) -> Part:
    """r_i - weight * share of the response's n-grams, of tokens, that occurred in it before."""
    if n < 1 or weight < 0:
        raise ArgumentError(f"penalise_repetition: n={n}, weight={weight}; expected n of at least 1, weight at least 0")

    def f(group: Group) -> Group:
        shaped = []
        for r, s in zip(group.responses, group.scores, strict=True):
            penalty = -weight * repeated(r.ids.tolist(), n)
            shaped.append(replace(s, value=s.value + penalty, parts={**s.parts, "repetition_penalty": penalty}))
        return replace(group, scores=tuple(shaped))

    return lift(f"penalise_repetition({n}, {weight:g})", f, ["scores"], ["scores"])
