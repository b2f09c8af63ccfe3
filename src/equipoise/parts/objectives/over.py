"""Denominators and log-ratios: what the objectives share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.types import Batch, Outputs

if TYPE_CHECKING:
    from torch import Tensor


Over = Literal["token", "response"] | float  # a number: the constant of Dr. GRPO, in tokens


# Of a token; of its response: the geometric mean of its tokens' or their product, the same for each of its tokens.
Ratio = Literal["token", "mean", "product"]
Sampler = Literal["old", "recorded"]


MAX_LOG_RATIO = 20.0  # beyond it exp() says nothing but overflow


def spread(per_token: Tensor, batch: Batch, over: Over) -> Tensor:
    """[T] -> [G]: token: / trained tokens; response: mean over responses of the mean over their tokens;
    a constant c: / (c x responses), which for 1 is the mean over responses of sums over their tokens."""
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
    return "responses of the step" if over == 1 else f"{over:g} tokens (constant) x responses of the step"


def checked(over: Over) -> Over:
    if over not in ("token", "response") and not (isinstance(over, (int, float)) and over > 0):
        raise ArgumentError(f"over={over!r}: expected 'token', 'response' or a number of tokens above 0")
    return over


def log_ratio(out: Outputs, batch: Batch, of: Ratio = "token", against: Sampler = "old") -> Tensor:
    """log pi - log old [T], of each token or of its whole response, with the gradient of the token's log pi.

    ``against`` "old": the policy when the update began, exactly 0 on the first; "recorded": whoever sampled, for stored
    responses. Raises ArgumentError if they were not sampled."""
    old = out.logp.detach() if batch.old is None else batch.old
    x = out.logp - (old if against == "old" else _recorded(batch))
    if of != "token":
        whole = batch.per_response(x.detach())
        whole = whole / batch.lengths if of == "mean" else whole
        x = whole[batch.response] + x - x.detach()
    return x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _recorded(batch: Batch) -> Tensor:
    if batch.behaviour.isnan().any():
        raise ArgumentError(
            "a ratio to the sampler needs the log-probs recorded while sampling; got responses without them, such as "
            "demonstrations. Use sampled or stored rollouts"
        )
    return batch.behaviour


def named(of: Ratio, against: Sampler = "old") -> str:
    """How formulas write the ratio. mu: whoever sampled."""
    rho = "rho_t" if against == "old" else "(pi/mu)_t"
    return {"token": rho, "mean": f"(prod_t {rho})^(1/|y|)", "product": f"prod_t {rho}"}[of]
