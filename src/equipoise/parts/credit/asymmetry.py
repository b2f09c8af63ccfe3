"""Different treatment of rewarded and unrewarded responses."""

from __future__ import annotations

import math

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import noted, per_response, values, with_advantage
from equipoise.protocols import Part, lift
from equipoise.types import Group, Note


def ease_kl(steepness: float) -> Part:
    """Note "kl_weight": 1 - exp(-steepness p) for responses with A > 0 to a prompt with pass rate p in (0, 1), else 1.
    The harder the prompt, the freer is a right response to leave the anchor. 2506.21655."""
    if steepness <= 0:
        raise ArgumentError(f"steepness={steepness}: expected above 0 (the KL has weight 1 where it is large)")

    def f(group: Group) -> Group:
        p = _pass_rate(group)
        weight = 1 - math.exp(-steepness * p) if 0 < p < 1 else 1.0
        w = np.where(per_response(group, "advantage") > 0, weight, 1.0)
        return noted(group, kl_weight=Note("response", (w,)))

    return lift(f"ease_kl({steepness:g})", f, ["advantage", "scores"], ["note:kl_weight"])


def press_long_wrong(base: float) -> Part:
    """A_i (2 - base^-D) for a wrong response that is D > 0 tokens longer than the mean right one. 2506.21655."""
    if base < 1:
        raise ArgumentError(f"base={base}: expected at least 1 (1 changes nothing)")

    def f(group: Group) -> Group:
        right = np.array([s.status == "right" for s in group.scores])
        if not right.any():
            return group
        lengths = np.array([len(r.ids) for r in group.responses], dtype=np.float64)
        excess = np.where(right, 0.0, np.maximum(lengths - lengths[right].mean(), 0.0))
        return with_advantage(group, per_response(group, "advantage") * (2 - base**-excess))

    return lift(f"press_long_wrong({base:g})", f, ["advantage", "scores"], ["advantage"])


def _pass_rate(group: Group) -> float:
    _, live = values(group)
    right = np.array([s.status == "right" for s in group.scores])
    return float(right[live].mean()) if live.any() else 0.0
