"""Policy gradients: kernels of the ratio between the policy and the one that sampled."""

from __future__ import annotations

from typing import Literal

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import MAX_LOG_RATIO, Over, checked, denominator, log_ratio, spread
from equipoise.types import Batch, Loss, Objective, Outputs


def score_function() -> Objective:
    """-A_i sum_t log pi(y_it), mean over responses: a sequence is one action, never divided by its length."""

    def loss(out: Outputs, batch: Batch) -> Loss:
        # Off-policy (several updates) the ratio of whole sequences weighs the gradient; on the first update it is 1.
        whole = batch.per_response(log_ratio(out, batch)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        a = batch.per_response(batch.advantage) / batch.lengths
        return Loss(batch.per_group(-a * whole.exp()) / max(batch.totals.responses, 1))

    return Objective(loss, "-A_i prod_t rho_it", "responses of the step", needs=frozenset({"advantage"}), silent=True)


def clipped(low: float, high: float, over: Over = "response", dual: float | None = None) -> Objective:
    """max(-A rho, -A clip(rho, 1-low, 1+high)) per token (PPO, 1707.06347); with ``dual``, where A < 0 at most -dual A
    (1912.09729)."""
    checked(over)
    if not (0 <= low < 1 and high >= 0) or (dual is not None and dual <= 1):
        raise ArgumentError(f"clipped({low}, {high}, dual={dual}): expected 0 <= low < 1, high >= 0, dual > 1")

    def loss(out: Outputs, batch: Batch) -> Loss:
        rho, a = log_ratio(out, batch).exp(), batch.advantage
        plain, bounded = -a * rho, -a * rho.clamp(1 - low, 1 + high)
        worst = plain.maximum(bounded)
        if dual is not None:
            worst = worst.where(a >= 0, worst.minimum(-dual * a))
        outside = ((bounded > plain) & (a != 0)).to(rho.dtype).sum()
        return Loss(spread(worst, batch, over), {"clip_ratio": (outside, float(len(rho)))})

    capped = f", at most -{dual:g} A where A < 0" if dual else ""
    formula = f"max(-A rho_t, -A clip(rho_t, {1 - low:g}, {1 + high:g})){capped}"
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
        needs=frozenset({"note:pass_rate"}),
    )
