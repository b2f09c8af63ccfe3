"""What a value head is fitted to."""

from __future__ import annotations

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import Over, checked, denominator, spread
from equipoise.types import Batch, Loss, Objective, Outputs


def value_error(clip: float, over: Over = "token", head: str = "value") -> Objective:
    """0.5 max((v - return)^2, (v clipped to v_old +- clip - return)^2) per token, for a value head (PPO)."""
    checked(over)
    if clip <= 0:
        raise ArgumentError(f"value clip={clip}: expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        v = out.heads[head][:, 0]
        old, target = batch.notes["value"], batch.notes["return"]
        near = old + (v - old).clamp(-clip, clip)
        error = 0.5 * ((v - target) ** 2).maximum((near - target) ** 2)
        return Loss(spread(error, batch, over), {"value_loss": (error.detach().sum(), float(len(error)))})

    needs = frozenset({f"head:{head}", "note:return", "note:value"})
    v = "v" if head == "value" else f"v_{head}"
    return Objective(loss, f"0.5 max(({v} - R)^2, (clip({v}, {clip:g}) - R)^2)", denominator(over), needs=needs)


def outcome_error(head: str, over: Over = "token") -> Objective:
    """-Z log p_t - (1 - Z) log(1 - p_t), p_t = sigmoid of the head at a token, Z in [0, 1] its response's reward: the
    maximum-likelihood fit of the chance of success after each token. Only the head learns."""
    checked(over)

    def loss(out: Outputs, batch: Batch) -> Loss:
        from torch.nn.functional import binary_cross_entropy_with_logits

        z = batch.reward[batch.response]
        error = binary_cross_entropy_with_logits(out.heads[head][:, 0], z, reduction="none")
        return Loss(spread(error, batch, over), {"value_loss": (error.detach().sum(), float(len(error)))})

    formula = f"-Z log p_t - (1 - Z) log(1 - p_t), p: {head}"
    return Objective(loss, formula, denominator(over), frozenset({f"head:{head}"}), frozen=True)
