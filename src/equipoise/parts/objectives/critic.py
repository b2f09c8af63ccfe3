"""What a value head is fitted to."""

from __future__ import annotations

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import denominator, spread
from equipoise.types import Batch, Loss, Objective, Outputs


def value_error(clip: float) -> Objective:
    """0.5 max((v - return)^2, (v clipped to v_old +- clip - return)^2) per token, for the value head (PPO)."""
    if clip <= 0:
        raise ArgumentError(f"value clip={clip}: expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        v = out.heads["value"][:, 0]
        old, target = batch.notes["value"], batch.notes["return"]
        near = old + (v - old).clamp(-clip, clip)
        error = 0.5 * ((v - target) ** 2).maximum((near - target) ** 2)
        return Loss(spread(error, batch, "token"), {"value_loss": (error.detach().sum(), float(len(error)))})

    needs = frozenset({"head:value", "note:return", "note:value"})
    return Objective(loss, f"0.5 max((v - R)^2, (clip(v, {clip:g}) - R)^2)", denominator("token"), needs=needs)
