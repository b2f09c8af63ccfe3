"""Policy gradients: kernels of the ratio between the policy and the one that sampled."""

from __future__ import annotations

from math import inf
from typing import Literal

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import (
    MAX_LOG_RATIO,
    Over,
    Ratio,
    Sampler,
    checked,
    denominator,
    log_ratio,
    named,
    spread,
)
from equipoise.types import Batch, Loss, Objective, Outputs


def score_function(over: Literal["response", "group"] = "response") -> Objective:
    """-A_i sum_t log pi(y_it), mean over responses, or over groups of their sum: a sequence is one action, never
    divided by its length."""
    if over not in ("response", "group"):
        raise ArgumentError(f"over={over!r}: expected 'response' or 'group'")

    def loss(out: Outputs, batch: Batch) -> Loss:
        # Off-policy (several updates) the ratio of whole sequences weighs the gradient; on the first update it is 1.
        whole = batch.per_response(log_ratio(out, batch)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        a = batch.per_response(batch.advantage) / batch.lengths
        n = batch.totals.responses if over == "response" else batch.totals.groups
        return Loss(batch.per_group(-a * whole.exp()) / max(n, 1))

    return Objective(loss, "-A_i prod_t rho_it", f"{over}s of the step", needs=frozenset({"advantage"}), silent=True)


def clipped(
    low: float, high: float, over: Over = "response", dual: float | None = None, ratio: Ratio = "token"
) -> Objective:
    """max(-A rho, -A clip(rho, 1-low, 1+high)) per token (PPO, 1707.06347); with ``dual``, where A < 0 at most -dual A
    (1912.09729). ``ratio`` "mean": of whole responses, per token (GSPO, 2507.18071). low=1, high=inf: no clip."""
    checked(over)
    if not (0 <= low <= 1 and high >= 0) or (dual is not None and dual <= 1):
        raise ArgumentError(f"clipped({low}, {high}, dual={dual}): expected 0 <= low <= 1, high >= 0, dual > 1")

    def loss(out: Outputs, batch: Batch) -> Loss:
        rho, a = log_ratio(out, batch, ratio).exp(), batch.advantage
        plain, bounded = -a * rho, -a * rho.clamp(1 - low, 1 + high)
        worst = plain.maximum(bounded)
        if dual is not None:
            worst = worst.where(a >= 0, worst.minimum(-dual * a))
        outside = ((bounded > plain) & (a != 0)).to(rho.dtype).sum()
        return Loss(spread(worst, batch, over), {"clip_ratio": (outside, float(len(rho)))})

    capped = f", at most -{dual:g} A where A < 0" if dual else ""
    w = named(ratio)
    formula = f"max(-A {w}, -A clip({w}, {1 - low:g}, {1 + high:g})){capped}" if high < inf or low < 1 else f"-A {w}"
    return Objective(loss, formula, denominator(over), needs=frozenset({"advantage"}), silent=True)


def reweighted(
    positive: tuple[float, float],
    negative: tuple[float, float] | None = None,
    over: Over = "token",
    ratio: Ratio = "token",
    against: Sampler = "old",
) -> Objective:
    """-sg(clip(rho, lo, hi)) A log pi per token: a bounded weight, so that every token keeps its gradient. The bounds
    (lo, hi) are ``positive``, and ``negative`` where A < 0 if that differs; (1, 1) is no correction at all."""
    checked(over)
    below = negative or positive
    if not all(0 <= lo <= 1 <= hi for lo, hi in (positive, below)):
        raise ArgumentError(f"bounds {positive} and {below} of the ratio: expected 0 <= lowest <= 1 <= highest")

    def loss(out: Outputs, batch: Batch) -> Loss:
        rho, a = log_ratio(out, batch, ratio, against).detach().exp(), batch.advantage
        weight = rho.clamp(*positive).where(a >= 0, rho.clamp(*below))
        outside = ((weight != rho) & (a != 0)).to(rho.dtype).sum()
        return Loss(spread(-weight * a * out.logp, batch, over), {"clip_ratio": (outside, float(len(rho)))})

    w, v = (f"clip({named(ratio, against)}, {lo:g}, {hi:g})" if hi > lo else f"{lo:g}" for lo, hi in (positive, below))
    formula = f"-sg({w}) A log pi_t" if w == v else f"-sg(w) A log pi_t, w = {w} where A > 0, {v} where A < 0"
    return Objective(loss, formula, denominator(over), needs=frozenset({"advantage"}), silent=True)


def implicit_negative(over: Over, floor: float = 1.0, weight: Literal["equal", "hard", "std"] = "hard") -> Objective:
    """NFT (2505.18116): right: -log rho; wrong: -log((1 - q rho) / (1 - q)), the implied negative policy, its argument
    clamped from below at ``floor`` with a straight-through gradient; q: pass rate of the group in [.02, .98].

    ``weight`` of a prompt: equal 1; hard 1-q (at pi = old the gradient of A = r - q); std sqrt((1-q)/q)."""
    checked(over)
    if floor <= 0:
        raise ArgumentError(f"floor={floor}: expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        log_rho = log_ratio(out, batch).clamp(max=10.0)
        q = batch.notes["pass_rate"].clamp(0.02, 0.98)
        w = {"equal": q * 0 + 1, "hard": 1 - q, "std": ((1 - q) / q).sqrt()}[weight]
        right = batch.notes["right"][batch.response] > 0.5
        qt, wt = q[batch.response], w[batch.response]
        odds = (1 - qt * log_rho.exp()) / (1 - qt)
        odds = odds + (odds.clamp(min=floor) - odds).detach()
        per_token = wt * (-log_rho).where(right, -odds.log())
        return Loss(spread(per_token, batch, over))

    return Objective(
        loss,
        f"w(q) [right: -log rho_t; wrong: -log((1 - q rho_t)/(1 - q)), floor {floor:g}], w: {weight}",
        denominator(over),
        needs=frozenset({"note:pass_rate", "note:right"}),
    )
