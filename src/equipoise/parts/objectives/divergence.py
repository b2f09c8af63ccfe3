"""What keeps a policy near another, or its entropy where it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import MAX_LOG_RATIO, Over, checked, denominator, log_ratio, spread
from equipoise.types import Batch, Loss, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl(
    policy: str,
    estimator: Estimator = "k3",
    over: Over = "response",
    *,
    forward: bool = False,
    corrected: bool = False,
    weight: str | None = None,
    at: str | None = None,
) -> Objective:
    """An estimate per token of KL(pi || policy), with ``forward`` of KL(policy || pi), from the sampler's tokens.

    x = log of the first over the second. k1: x; k2: x^2/2; k3: exp(-x) - 1 + x. As it stands its gradient on samples of
    pi is 0 for k1, KL(pi || policy)'s for k2 and KL(policy || pi)'s for k3. ``corrected`` weighs it by the first
    policy over the old one (pi's ratio keeps its gradient), so that value and gradient are those of the divergence
    whoever sampled; for k3 without the constraint that probabilities sum to 1. ``policy`` "old": the one before the
    update. ``weight``: a response note that multiplies it; ``at``: a token note that does. 2505.17508."""
    checked(over)
    if estimator not in ("k1", "k2", "k3"):
        raise ArgumentError(f"estimator={estimator!r}: expected 'k1', 'k2' or 'k3'")

    def loss(out: Outputs, batch: Batch) -> Loss:
        x = log_ratio(out, batch) if policy == "old" else _bounded(out.logp - batch.notes[f"logp:{policy}"])
        value = _estimate(-x if forward else x, estimator)
        if corrected:
            rho = log_ratio(out, batch)
            value = value * (_bounded(rho.detach() - x.detach()) if forward else rho).exp()
        weighed = value if weight is None else value * batch.notes[weight][batch.response]
        weighed = weighed if at is None else weighed * batch.notes[at]
        return Loss(spread(weighed, batch, over), {"kl": (value.detach().sum(), float(len(value)))})

    first, second = (policy, "pi") if forward else ("pi", policy)
    times = (
        f"{weight} " * (weight is not None)
        + f"{at} " * (at is not None)
        + f"{first}/old " * (corrected and first != "old")
    )
    needs = frozenset[str]() if policy == "old" else frozenset({f"logp:{policy}"})
    needs |= {f"note:{note}" for note in (weight, at) if note is not None}
    return Objective(loss, f"{times}{estimator}({first}, {second})", denominator(over), needs=needs)


def _bounded(x: Tensor) -> Tensor:
    return x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _estimate(x: Tensor, estimator: Estimator) -> Tensor:
    if estimator == "k1":
        return x
    return 0.5 * x**2 if estimator == "k2" else (-x).exp() - 1 + x


def keep_within(policy: str, limit: float, weight: float) -> Objective:
    """weight/2 max(0, K - limit)^2, K = mean over the step's tokens of log policy - log pi, which estimates
    KL(policy || pi) from samples of ``policy``. As the gradient sees it: sg(weight max(0, K - limit)) K."""
    if limit < 0 or weight <= 0:
        raise ArgumentError(f"limit={limit}, weight={weight}: expected a limit of at least 0 and a weight above 0")
    estimate = kl(policy, "k1", "token", forward=True)

    def loss(out: Outputs, batch: Batch) -> Loss:
        found = estimate.loss(out, batch)
        beyond = (found.per_group.detach().sum() - limit).clamp(min=0.0)
        return Loss(weight * beyond * found.per_group, found.metrics)

    formula = f"[sg({weight:g} max(0, K - {limit:g})) K; K = {estimate.formula}]"
    return Objective(loss, formula, estimate.denominator, estimate.needs, scope="batch")


def entropy(over: Over = "response") -> Objective:
    """H(pi_t) = -sum_v pi_t(v) log pi_t(v), nats, over the whole vocabulary; minimised as it stands. A bonus is
    ``-weight * entropy()``."""
    checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        h = out.reduced["entropy"]
        return Loss(spread(h, batch, over), {"entropy": (h.detach().sum(), float(len(h)))})

    return Objective(loss, "H(pi_t)", denominator(over), needs=frozenset({"entropy"}))
