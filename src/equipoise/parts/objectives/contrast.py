"""Right responses against wrong ones of the same group."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import log_ratio
from equipoise.types import Batch, Loss, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor


def separate(score: Literal["logp", "ratio"] = "logp", tau: float = inf) -> Objective:
    """-(mean of s over right - tau log mean of exp(s / tau) over wrong), s(y) = mean_t log pi_t or mean_t rho_t,
    for each group that has both; mean over all groups. The smaller ``tau``, the more the likeliest wrong response
    counts; at inf it is the plain mean. 2505.12366."""
    if score not in ("logp", "ratio"):
        raise ArgumentError(f"score={score!r}: expected 'logp' or 'ratio'")
    if not tau > 0:
        raise ArgumentError(f"tau={tau}: expected above 0 (inf: the plain mean of the wrong ones)")

    def loss(out: Outputs, batch: Batch) -> Loss:
        s = batch.per_response(out.logp if score == "logp" else log_ratio(out, batch).exp()) / batch.lengths
        right = (batch.notes["right"] > 0.5).to(s.dtype)
        both = (batch.per_group(right) > 0) & (batch.per_group(1 - right) > 0)
        gap = _mean(s, right, batch) - _soft_maximum(s, 1 - right, batch, tau)
        return Loss(
            -gap * both / max(batch.totals.groups, 1), {"separation": ((gap * both).detach().sum(), both.sum())}
        )

    s_of = "mean_t log pi_t" if score == "logp" else "mean_t rho_t"
    wrong = "mean of wrong s" if tau == inf else f"{tau:g} log mean of wrong exp(s/{tau:g})"
    needs = frozenset({"note:right"})
    return Objective(loss, f"-[mean of right s - {wrong}; s = {s_of}]", "groups of the step", needs, scope="group")


def _mean(x: Tensor, which: Tensor, batch: Batch) -> Tensor:
    """Over the responses ``which`` (0 or 1) [R] of each group: [G], 0 where there are none."""
    return batch.per_group(x * which) / batch.per_group(which).clamp(min=1)


def _soft_maximum(s: Tensor, which: Tensor, batch: Batch, tau: float) -> Tensor:
    """tau log mean exp(s / tau) over the responses ``which``: [G]."""
    if tau == inf:
        return _mean(s, which, batch)
    low = s.new_full((batch.groups,), -inf).scatter_reduce(0, batch.group, s.detach().where(which > 0, -inf), "amax")
    peak = low.where(low.isfinite(), 0.0)
    mean = _mean(((s - peak[batch.group]) / tau).clamp(max=0.0).exp(), which, batch)
    return peak + tau * (mean + (mean == 0)).log()
