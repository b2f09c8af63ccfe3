"""Denominators and log-ratios: what the objectives share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.types import Batch, Outputs

if TYPE_CHECKING:
    from torch import Tensor


Over = Literal["token", "response"] | float  # a number: the constant of Dr. GRPO, in tokens


MAX_LOG_RATIO = 20.0  # beyond it exp() says nothing but overflow


def spread(per_token: Tensor, batch: Batch, over: Over) -> Tensor:
    """[T] -> [G]: token: / trained tokens; response: mean over responses of the mean over their tokens;
    a constant c: / (c x responses)."""
    sums = batch.per_response(per_token)
    if over == "token":
        return batch.per_group(sums) / max(batch.totals.tokens, 1)
    if over == "response":
        return batch.per_group(sums / batch.lengths) / max(batch.totals.responses, 1)
    return batch.per_group(sums) / (float(over) * max(batch.totals.responses, 1))


def denominator(over: Over) -> str:
    if over == "token":
        return "trained tokens of the step"
    if over == "response":
        return "tokens of the response, then responses of the step"
    return f"{over:g} tokens (constant) x responses of the step"


def checked(over: Over) -> Over:
    if over not in ("token", "response") and not (isinstance(over, (int, float)) and over > 0):
        raise ArgumentError(f"over={over!r}: expected 'token', 'response' or a number of tokens above 0")
    return over


def log_ratio(out: Outputs, batch: Batch) -> Tensor:
    """log pi - log old [T]; on the first update exactly 0, with the gradient of log pi."""
    old = out.logp.detach() if batch.old is None else batch.old
    return (out.logp - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
