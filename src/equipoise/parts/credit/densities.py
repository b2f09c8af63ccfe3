"""Dividing by how common a pass rate is among the prompts of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import per_response, values, with_advantage
from equipoise.protocols import Context, Part, State
from equipoise.types import Group


def beta_shape(rates: Sequence[float]) -> tuple[float, float]:
    """(alpha, beta) for prompts with these mean rewards in [0, 1]: the Beta density with their mean m and unbiased
    variance v has a = (m(1-m)/v - 1) m and b = (m(1-m)/v - 1)(1-m); a third of either is added to 1, never less than 1.

    (1, 1), the uniform density, where v is 0 or there are fewer than two prompts. BNPO, 2506.02864."""
    m, v = float(np.mean(rates)), float(np.var(rates, ddof=1)) if len(rates) > 1 else 0.0
    if v == 0:
        return 1.0, 1.0
    size = m * (1 - m) / v - 1
    return max(1.0, 1 + size * m / 3), max(1.0, 1 + size * (1 - m) / 3)


def inverse_density(p: float, alpha: float, beta: float, limit: float) -> float:
    """1 / BetaPDF(p; alpha, beta) for p in (0, 1), at most ``limit``."""
    from scipy.special import betaln

    log_density = (alpha - 1) * math.log(p) + (beta - 1) * math.log1p(-p) - float(betaln(alpha, beta))
    return math.exp(min(-log_density, math.log(limit)))


def divide_by_density(limit: float) -> Part:
    """A_i / BetaPDF(group mean; alpha, beta), the density fitted to the step's group means (``beta_shape``); the factor
    is at most ``limit``. At (3/2, 3/2) it is pi / (8 sqrt(p(1-p))). Rewards must lie in [0, 1]."""
    if limit <= 0:
        raise ArgumentError(f"limit={limit}: the largest factor of an advantage; expected above 0")

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        rates = [_rate(g) for g in groups]
        alpha, beta = beta_shape([p for p in rates if p is not None] or [0.0])
        after = []
        for g, p in zip(groups, rates, strict=True):
            scale = inverse_density(p, alpha, beta, limit) if p is not None and 0 < p < 1 else 0.0
            after.append(with_advantage(g, per_response(g, "advantage") * scale))
        return after, state

    return Part(
        f"divide_by_density(Beta, {limit:g})", run, frozenset({"advantage", "scores"}), frozenset({"advantage"})
    )


def _rate(group: Group) -> float | None:
    r, live = values(group)
    if not live.any():
        return None
    if r[live].min() < 0 or r[live].max() > 1:
        raise ArgumentError(
            f"prompt {group.prompt.id!r} has rewards from {r[live].min():g} to {r[live].max():g}; a Beta density needs "
            "them in [0, 1]. Use a verifier with such rewards, or another method."
        )
    return float(r[live].mean())
