"""What keeps a policy near another, or its entropy where it should be."""

from __future__ import annotations

from equipoise.parts.objectives.over import MAX_LOG_RATIO, Over, checked, denominator, spread
from equipoise.types import Batch, Loss, Objective, Outputs


def k3(policy: str, over: Over = "response") -> Objective:
    """exp(x) - 1 - x with x = log policy - log pi: never negative, exactly 0 where they agree. As a loss on samples of
    pi its gradient is that of KL(policy || pi)."""
    checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        x = (batch.notes[f"logp:{policy}"] - out.logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl = x.exp() - 1 - x
        return Loss(spread(kl, batch, over), {"kl": (kl.detach().sum(), float(len(kl)))})

    return Objective(loss, f"k3(pi, {policy})", denominator(over), needs=frozenset({f"logp:{policy}"}))
