"""Decoding guided by what is to come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from equipoise.errors import ArgumentError
from equipoise.types import Adjust

if TYPE_CHECKING:
    from torch import Tensor


def soft_value(logits: Tensor, eta: float) -> Tensor:
    """Q / eta = log E[exp(Z / eta)] for a reward Z that is 1 with probability p = sigmoid(logits), else 0:
    log(1 - p + p e^(1/eta)), in log-space, of any shape. Q tends to p as eta grows, and to 1 (where p > 0) as eta
    vanishes. Q#, 2502.20548."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(-logits).logaddexp(logsigmoid(logits) + 1 / eta)


def guided(head: str, eta: float, top: int = 0, soft: bool = True) -> Adjust:
    """Draws from pi(a) exp(Q(a) / eta), up to a constant: the policy nearest to pi (in KL, at price eta) that earns
    most, if ``head`` (a column per vocabulary entry) gives the log-odds of success after each token when pi goes on.
    Not ``soft``: Q is the chance of success itself, what pi earns from there on (controlled decoding, 2310.17022).

    ``top`` > 0 guides among pi's so many likeliest tokens and draws no other. Costs the head, D x V a token."""
    if not (0 < eta < math.inf) or top < 0 or not head.endswith("[V]"):
        raise ArgumentError(
            f"guided({head!r}, eta={eta}, top={top}): expected a head named x[V], eta above 0, top of at least 0"
        )

    def run(logits: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
        odds = heads[head].to(logits.dtype)
        z = logits + (soft_value(odds, eta) if soft else odds.sigmoid() / eta)
        if not 0 < top < logits.shape[-1]:
            return z
        return z.masked_fill(logits < logits.topk(top).values[:, -1:], -math.inf)

    more = f"{f', top {top}' if top else ''}{'' if soft else ', mean'}"
    return Adjust(f"guided(eta {eta:g}{more})", run, frozenset({f"head:{head}"}))
