"""What a centred reward is divided by."""

from __future__ import annotations

import numpy as np

from equipoise.parts.credit.groups import noted, per_response, values, with_advantage
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Group, Note


def divide_by_std(eps: float = 1e-6) -> Part:
    """A_i / (population standard deviation of the group's scores + eps). For rewards of 0 and 1 and pass rate p the
    deviation is sqrt(p(1-p))."""

    def f(group: Group) -> Group:
        r, live = values(group)
        a = per_response(group, "advantage")
        if not a.any():
            return group
        return with_advantage(group, a / (float(r[live].std()) + eps))

    return lift("divide_by_std(group)", f, ["advantage", "scores"], ["advantage"])


def whiten(eps: float = 1e-8) -> Part:
    """Advantages to mean 0 and population variance 1 over all trained tokens of the step."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        flat = [a[r.trained] for g in groups for a, r in zip(g.notes["advantage"].values, g.responses, strict=True)]
        every = np.concatenate(flat) if flat else np.zeros(0)
        if len(every) < 2:
            return groups, state
        mean, std = float(every.mean()), float(every.std())
        after = []
        for g in groups:
            a = [
                np.where(r.trained, (x - mean) / (std + eps), 0.0)
                for x, r in zip(g.notes["advantage"].values, g.responses, strict=True)
            ]
            after.append(noted(g, advantage=Note("token", tuple(a))))
        return after, state

    return Part("whiten", run, frozenset({"advantage"}), frozenset({"advantage"}))
