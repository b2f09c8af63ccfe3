"""Regression on log-ratios. The policy that maximises E[r] - b KL(pi || anchor) leaves no residual, whoever sampled.

D_t = log pi(y_t) - log anchor(y_t), D its sum over a response. Every square is divided by 2b: then the step does not
shrink with b, and on samples of pi the gradient is that of the policy with b D inside its reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import log_ratio
from equipoise.types import Batch, Loss, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor


def residual(beta: float, policy: str = "start") -> Objective:
    """(A - b D)^2 / 2b less its constant A^2 / 2b, that is -A D + (b/2) D^2, mean over responses. A = r - V(x) of a
    value that is known. At b = 0 the score function's -A log pi."""
    _not_negative(beta)

    def loss(out: Outputs, batch: Batch) -> Loss:
        d = _drift(out, batch, policy)
        a = batch.per_response(batch.advantage) / batch.lengths
        squares = beta / 2 * d**2 - a * d
        return Loss(batch.per_group(squares) / max(batch.totals.responses, 1), _size(a - beta * d))

    needs = frozenset({"advantage", f"logp:{policy}"})
    formula = f"(A - {beta:g} D)^2 / {2 * beta:g}" if beta else "-A D"
    return Objective(loss, f"{formula}, D over {policy}", "responses of the step", needs)


def pairwise_residual(beta: float, policy: str = "start") -> Objective:
    """((r - r') - b (D - D'))^2 / 4b less its constant, averaged over the pairs of a group, mean over groups
    (2406.19185). All pairs at once: sum over the group of -(r - mean r) D + (b/2) (D - mean D)^2, over N - 1, whose
    gradient is that of leave-one-out on r - b D. A group of one response has no pair and no loss."""
    _not_negative(beta)

    def loss(out: Outputs, batch: Batch) -> Loss:
        d, r = (_centred(x, batch) for x in (_drift(out, batch, policy), batch.reward))
        others = (batch.per_group(d.new_ones(len(d))) - 1).clamp(min=1.0)
        squares = beta / 2 * d**2 - r * d
        return Loss(batch.per_group(squares) / (others * max(batch.totals.groups, 1)), _size(r - beta * d))

    needs = frozenset({"scores", f"logp:{policy}"})
    formula = f"((r - r') - {beta:g} (D - D'))^2 / {4 * beta:g}" if beta else "-(r - r') (D - D') / 2"
    return Objective(loss, f"{formula}, D over {policy}", "pairs of the group, then groups", needs, scope="group")


def residual_gradient(beta: float, weight: str) -> Objective:
    """-sg(e_i w_it) log pi_t, mean over responses of sums: the gradient of the residual e = (r - b D) less its group
    mean, D over whoever sampled, with a weight for each token. ``weight`` names a token note of weights that hold where
    e < 0; where e > 0 they are 1. With weights of 1 it has the gradient of ``pairwise_residual`` times (N - 1) / N."""
    _not_negative(beta)

    def loss(out: Outputs, batch: Batch) -> Loss:
        d = batch.per_response(log_ratio(out, batch, against="recorded"))
        e = _centred(batch.reward - beta * d, batch).detach()
        pushed = e[batch.response]
        pushed = (pushed * batch.notes[weight]).where(pushed < 0, pushed)
        sums = batch.per_response(-pushed * out.logp)
        return Loss(batch.per_group(sums) / max(batch.totals.responses, 1), _size(e))

    needs = frozenset({"scores", f"note:{weight}"})
    formula = f"-sg(e {weight}_t) log pi_t, e = r - {beta:g} D less its group mean, D over the sampler"
    return Objective(loss, formula, "responses of the step", needs, scope="group")


def logit_residual(beta: float, policy: str = "start") -> Objective:
    """sum_t [ sum over u >= t of (r_u - b D_u) - b (v_t - v0_t) ]^2 / 2b, mean over responses (2505.11081).

    v_t, v0_t: logsumexp of the policy's and the anchor's logits before token t, so the logits are soft values and no
    other value is fitted. The logits must not be normalised: a constant added to them leaves pi and moves v. The
    reward arrives with the last trained token."""
    _above(beta)

    def loss(out: Outputs, batch: Batch) -> Loss:
        v = out.reduced["logsumexp"] - batch.notes[f"logsumexp:{policy}"]
        e = to_go(_rewards(batch) - beta * _ratio(out, batch, policy), batch) - beta * v
        sums = batch.per_response(e**2 / (2 * beta))
        return Loss(batch.per_group(sums) / max(batch.totals.responses, 1), _size(e))

    needs = frozenset({"scores", "logsumexp", f"logp:{policy}", f"logsumexp:{policy}"})
    formula = f"sum_t (sum_(u>=t) (r_u - {beta:g} D_u) - {beta:g} (v_t - v0_t))^2 / {2 * beta:g}, D over {policy}"
    return Objective(loss, formula, "responses of the step", needs)


def value_residual(
    beta: float, lam: float = 1.0, vf: float = 1.0, corrected: bool = True, policy: str = "start"
) -> Objective:
    """w_t [ (b D_t - sg(r_t + G_(t+1) - V_t))^2 / 2b + vf/2 (V_t - sg(G_t))^2 ], mean over responses of sums, V from
    the value head and G_t = r_t - b D_t + (1-lam) V_(t+1) + lam G_(t+1) its lambda-return (2410.09302).

    ``corrected``: w_t = min(1, prod over u > t of pi/sampler), as the return was not sampled by pi; else 1."""
    _above(beta)
    if not 0 <= lam <= 1 or vf <= 0:
        raise ArgumentError(f"lam={lam}, vf={vf}: expected lam in [0, 1] and vf above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        d, v, r = _ratio(out, batch, policy), out.heads["value"][:, 0], _rewards(batch)
        ahead = _shifted(v.detach(), batch)
        g = to_go(r - beta * d.detach() + (1 - lam) * ahead, batch, lam)
        weight = _ratio_to_come(out, batch) if corrected else 1.0
        e = r + _shifted(g, batch) - v.detach() - beta * d
        sums = batch.per_response(weight * (e**2 / (2 * beta) + vf / 2 * (v - g) ** 2))
        return Loss(batch.per_group(sums) / max(batch.totals.responses, 1), _size(e))

    needs = frozenset({"scores", "head:value", f"logp:{policy}"})
    formula = f"w_t [({beta:g} D_t - sg(r_t + G_(t+1) - V_t))^2 / {2 * beta:g} + {vf / 2:g} (V_t - sg(G_t))^2]"
    return Objective(loss, f"{formula}, D over {policy}, lambda {lam:g}", "responses of the step", needs)


def to_go(x: Tensor, batch: Batch, decay: float = 1.0) -> Tensor:
    """y_t = x_t + decay y_(t+1) within each response: [T] -> [T], differentiable."""
    import torch

    column = _column(batch)
    grid = x.new_zeros(len(batch.lengths), int(column.max()) + 1).index_put((batch.response, column), x)
    sums = [grid.new_zeros(len(grid))]
    for each in reversed(grid.unbind(1)):
        sums.append(each + decay * sums[-1])
    return torch.stack(sums[:0:-1], 1)[batch.response, column]


def _column(batch: Batch) -> Tensor:
    """A token's place among the trained tokens of its response, [T] long."""
    n = batch.lengths.long()
    return (batch.response.new_ones(len(batch.response)).cumsum(0) - 1) - (n.cumsum(0) - n)[batch.response]


def _shifted(x: Tensor, batch: Batch) -> Tensor:
    """x_(t+1) within each response, 0 after its end: [T] -> [T]."""
    after = x.roll(-1)
    after[batch.lengths.long().cumsum(0) - 1] = 0.0
    return after


def _rewards(batch: Batch) -> Tensor:
    """The score at the last trained token of its response, 0 before it: [T]."""
    r = batch.reward.new_zeros(len(batch.response))
    r[batch.lengths.long().cumsum(0) - 1] = batch.reward
    return r


def _ratio(out: Outputs, batch: Batch, policy: str) -> Tensor:
    return out.logp - batch.notes[f"logp:{policy}"]


def _drift(out: Outputs, batch: Batch, policy: str) -> Tensor:
    """D of each response, [R]."""
    return batch.per_response(_ratio(out, batch, policy))


def _ratio_to_come(out: Outputs, batch: Batch) -> Tensor:
    """min(1, product over the later tokens of pi/sampler), detached: [T]."""
    x = log_ratio(out, batch, against="recorded").detach()
    return (to_go(x, batch) - x).clamp(max=0.0).exp()


def _centred(x: Tensor, batch: Batch) -> Tensor:
    """[R] less the mean of its group."""
    n = batch.per_group(x.new_ones(len(x))).clamp(min=1.0)
    return x - (batch.per_group(x) / n)[batch.group]


def _size(e: Tensor) -> dict[str, tuple[Tensor, float]]:
    return {"residual": (e.detach().abs().sum(), float(len(e)))}


def _not_negative(beta: float) -> None:
    if beta < 0:
        raise ArgumentError(f"beta={beta:g}: the weight of the tie to another policy; expected at least 0")


def _above(beta: float) -> None:
    if beta <= 0:
        raise ArgumentError(
            f"beta={beta:g}: at 0 the policy's log-probs leave the residual and nothing is learned; expected above 0"
        )
