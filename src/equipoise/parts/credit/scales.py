"""What a centred reward is divided by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equipoise.parts.credit.groups import Array, Pool, noted, pooled, token_values
from equipoise.protocols import Context, Part, State
from equipoise.types import Group, Note


def divide_by_std(eps: float = 1e-6, pool: Pool = "group") -> Part:
    """A_i / (population standard deviation of the scores + eps), of the group's or of all of the step's. For rewards of
    0 and 1 and pass rate p the deviation is sqrt(p(1-p)). Of the raw scores, also where a baseline was taken off A."""

    def f(r: Array, live: NDArray[np.bool_], a: Array) -> Array:
        return a / (float(r[live].std()) + eps) if a.any() else a

    return pooled("divide_by_std", pool, f, ["advantage", "scores"])


def whiten(eps: float = 1e-8) -> Part:
    """Advantages to mean 0 and population variance 1 over all trained tokens of the step."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        flat = [a[r.trained] for g in groups for a, r in zip(token_values(g, "advantage"), g.responses, strict=True)]
        every = np.concatenate(flat) if flat else np.zeros(0)
        if len(every) < 2:
            return groups, state
        mean, std = float(every.mean()), float(every.std())
        after = []
        for g in groups:
            a = [
                np.where(r.trained, (x - mean) / (std + eps), 0.0)
                for x, r in zip(token_values(g, "advantage"), g.responses, strict=True)
            ]
            after.append(noted(g, advantage=Note("token", tuple(a))))
        return after, state

    return Part("whiten", run, frozenset({"advantage"}), frozenset({"advantage"}))
