"""What is minimised: pure functions of flat tokens. Each names its formula and its denominator.

pi: the policy being trained; old: the policy when the update began; A: advantage; rho = pi / old; y: a response.
The denominators are the step's totals, never a micro-batch's: token, response, group, or a constant times responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.types import Batch, Loss, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor

Over = Literal["token", "response"] | float  # a number: the constant of Dr. GRPO, in tokens

MAX_LOG_RATIO = 20.0  # beyond it exp() says nothing but overflow


def _spread(per_token: Tensor, batch: Batch, over: Over) -> Tensor:
    """[T] -> [G]: token: / trained tokens; response: mean over responses of the mean over their tokens;
    a constant c: / (c x responses)."""
    sums = batch.per_response(per_token)
    if over == "token":
        return batch.per_group(sums) / max(batch.totals.tokens, 1)
    if over == "response":
        return batch.per_group(sums / batch.lengths) / max(batch.totals.responses, 1)
    return batch.per_group(sums) / (float(over) * max(batch.totals.responses, 1))


def _denominator(over: Over) -> str:
    if over == "token":
        return "trained tokens of the step"
    if over == "response":
        return "tokens of the response, then responses of the step"
    return f"{over:g} tokens (constant) x responses of the step"


def _checked(over: Over) -> Over:
    if over not in ("token", "response") and not (isinstance(over, (int, float)) and over > 0):
        raise ArgumentError(f"over={over!r}: expected 'token', 'response' or a number of tokens above 0")
    return over


def _log_ratio(out: Outputs, batch: Batch) -> Tensor:
    """log pi - log old [T]; on the first update exactly 0, with the gradient of log pi."""
    old = out.logp.detach() if batch.old is None else batch.old
    return (out.logp - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def likelihood(over: Over = "token", weigh: Literal["none", "probability"] = "none") -> Objective:
    """-log pi(y), or with ``weigh="probability"`` -sg(pi) log pi (DFT, 2508.05629), whose gradient is that of -pi."""
    _checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        weight = out.logp.detach().exp() if weigh == "probability" else 1.0
        nll = -out.logp
        return Loss(_spread(weight * nll, batch, over), {"nll": (nll.detach().sum(), float(len(nll)))})

    formula = "-sg(pi_t) log pi_t" if weigh == "probability" else "-log pi_t"
    return Objective(loss, formula, _denominator(over))


def score_function() -> Objective:
    """-A_i sum_t log pi(y_it), mean over responses: a sequence is one action, never divided by its length."""

    def loss(out: Outputs, batch: Batch) -> Loss:
        # Off-policy (several updates) the ratio of whole sequences weighs the gradient; on the first update it is 1.
        log_ratio = batch.per_response(_log_ratio(out, batch)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        a = batch.per_response(batch.advantage) / batch.lengths
        return Loss(batch.per_group(-a * log_ratio.exp()) / max(batch.totals.responses, 1))

    return Objective(loss, "-A_i prod_t rho_it", "responses of the step", needs=frozenset({"advantage"}), silent=True)


def clipped(low: float, high: float, over: Over = "response", dual: float | None = None) -> Objective:
    """max(-A rho, -A clip(rho, 1-low, 1+high)) per token (PPO, 1707.06347); with ``dual``, where A < 0 at most -dual A
    (1912.09729)."""
    _checked(over)
    if not (0 <= low < 1 and high >= 0) or (dual is not None and dual <= 1):
        raise ArgumentError(f"clipped({low}, {high}, dual={dual}): expected 0 <= low < 1, high >= 0, dual > 1")

    def loss(out: Outputs, batch: Batch) -> Loss:
        rho, a = _log_ratio(out, batch).exp(), batch.advantage
        plain, bounded = -a * rho, -a * rho.clamp(1 - low, 1 + high)
        worst = plain.maximum(bounded)
        if dual is not None:
            worst = worst.where(a >= 0, worst.minimum(-dual * a))
        outside = ((bounded > plain) & (a != 0)).to(rho.dtype).sum()
        return Loss(_spread(worst, batch, over), {"clip_ratio": (outside, float(len(rho)))})

    capped = f", at most -{dual:g} A where A < 0" if dual else ""
    formula = f"max(-A rho_t, -A clip(rho_t, {1 - low:g}, {1 + high:g})){capped}"
    return Objective(loss, formula, _denominator(over), needs=frozenset({"advantage"}), silent=True)


def k3(policy: str, over: Over = "response") -> Objective:
    """exp(x) - 1 - x with x = log policy - log pi: never negative, exactly 0 where they agree. As a loss on samples of
    pi its gradient is that of KL(policy || pi)."""
    _checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        x = (batch.notes[f"logp:{policy}"] - out.logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl = x.exp() - 1 - x
        return Loss(_spread(kl, batch, over), {"kl": (kl.detach().sum(), float(len(kl)))})

    return Objective(loss, f"k3(pi, {policy})", _denominator(over), needs=frozenset({f"logp:{policy}"}))


def preference(beta: float, policy: str = "start", per_token: bool = False) -> Objective:
    """-log sigmoid(beta (D(w) - D(l))), D(y) = log pi(y) - log policy(y), for pairs with the preferred response first
    (DPO, 2305.18290). ``per_token`` divides each D by its length (Tulu 3's variant, 2411.15124)."""
    if beta <= 0:
        raise ArgumentError(f"beta={beta}: at 0 the preference loss is log 2 whatever the model says; expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        from torch.nn.functional import logsigmoid

        d = batch.per_response(out.logp - batch.notes[f"logp:{policy}"])
        d = d / batch.lengths if per_token else d
        if len(d) != 2 * batch.groups:
            raise ArgumentError(f"a preference needs two responses a group; got {len(d)} in {batch.groups} groups")
        wins, losses = beta * d[0::2], beta * d[1::2]
        margin = wins - losses
        n = float(batch.groups)
        return Loss(
            -logsigmoid(margin) / max(batch.totals.groups, 1),
            {
                "rewards/chosen": (wins.detach().sum(), n),
                "rewards/rejected": (losses.detach().sum(), n),
                "rewards/margins": (margin.detach().sum(), n),
                "rewards/accuracies": ((margin.detach() > 0).to(d.dtype).sum(), n),
            },
        )

    d_of = "D(y)/|y|" if per_token else "D(y)"
    return Objective(
        loss,
        f"-log sigmoid({beta:g} (D(w) - D(l))), {d_of} over {policy}",
        "pairs of the step",
        needs=frozenset({f"logp:{policy}"}),
        scope="group",
    )


def implicit_negative(over: Over, floor: float = 1.0, weight: Literal["equal", "hard", "std"] = "hard") -> Objective:
    """NFT (2505.18116): right: -log rho; wrong: -log((1 - q rho) / (1 - q)), the implied negative policy, its argument
    clamped from below at ``floor`` with a straight-through gradient; q: pass rate of the group in [.02, .98].

    ``weight`` of a prompt: equal 1; hard 1-q (at pi = old the gradient of A = r - q); std sqrt((1-q)/q)."""
    _checked(over)
    if floor <= 0:
        raise ArgumentError(f"floor={floor}: expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        log_rho = _log_ratio(out, batch).clamp(max=10.0)
        q = batch.notes["pass_rate"].clamp(0.02, 0.98)
        w = {"equal": q * 0 + 1, "hard": 1 - q, "std": ((1 - q) / q).sqrt()}[weight]
        right = batch.notes["right"][batch.response] > 0.5
        qt, wt = q[batch.response], w[batch.response]
        odds = (1 - qt * log_rho.exp()) / (1 - qt)
        odds = odds + (odds.clamp(min=floor) - odds).detach()
        per_token = wt * (-log_rho).where(right, -odds.log())
        return Loss(_spread(per_token, batch, over))

    return Objective(
        loss,
        f"w(q) [right: -log rho_t; wrong: -log((1 - q rho_t)/(1 - q)), floor {floor:g}], w: {weight}",
        _denominator(over),
        needs=frozenset({"note:pass_rate"}),
    )


def value_error(clip: float) -> Objective:
    """0.5 max((v - return)^2, (v clipped to v_old +- clip - return)^2) per token, for the value head (PPO)."""
    if clip <= 0:
        raise ArgumentError(f"value clip={clip}: expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        v = out.heads["value"][:, 0]
        old, target = batch.notes["value"], batch.notes["return"]
        near = old + (v - old).clamp(-clip, clip)
        error = 0.5 * ((v - target) ** 2).maximum((near - target) ** 2)
        return Loss(_spread(error, batch, "token"), {"value_loss": (error.detach().sum(), float(len(error)))})

    needs = frozenset({"head:value", "note:return", "note:value"})
    return Objective(loss, f"0.5 max((v - R)^2, (clip(v, {clip:g}) - R)^2)", _denominator("token"), needs=needs)
