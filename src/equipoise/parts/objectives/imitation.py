"""Imitation: the likelihood of given responses."""

from __future__ import annotations

from typing import Literal

from equipoise.parts.objectives.over import Over, checked, denominator, spread
from equipoise.types import Batch, Loss, Objective, Outputs


def likelihood(over: Over = "token", weigh: Literal["none", "probability"] = "none") -> Objective:
    """-log pi(y), or with ``weigh="probability"`` -sg(pi) log pi (DFT, 2508.05629), whose gradient is that of -pi."""
    checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        weight = out.logp.detach().exp() if weigh == "probability" else 1.0
        nll = -out.logp
        return Loss(spread(weight * nll, batch, over), {"nll": (nll.detach().sum(), float(len(nll)))})

    formula = "-sg(pi_t) log pi_t" if weigh == "probability" else "-log pi_t"
    return Objective(loss, formula, denominator(over))
