"""From logits to what is read of them per token, in few passes over [T, V]: on CPU each costs a fifth of a product.

Written as one function with its own derivative, because the ones that autograd would put together pass over the logits
about ten times, and this one three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PerToken(torch.autograd.Function):
    """``z [T, V]`` logits over the temperature, ``target [T]`` -> log-prob of the target, and each of "logsumexp" and
    "entropy" that is asked for, all [T], nats.

    With p the softmax: d logp = onehot - p; d logsumexp = p; d entropy = -p (log p + entropy).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Tensor, reductions: Sequence[str]) -> tuple[Tensor, ...]:
        place = target[:, None]
        logs = z.log_softmax(-1)
        logp = logs.gather(1, place)[:, 0]
        found = {"logsumexp": z.gather(1, place)[:, 0] - logp}
        if "entropy" in reductions:
            found["entropy"] = -logs.exp().mul_(logs).sum(-1)
        ctx.reductions = tuple(reductions)
        ctx.save_for_backward(logs, target, found.get("entropy", logp))
        return logp, *(found[name] for name in reductions)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        logs, target, entropy = ctx.saved_tensors
        by = dict(zip(("logp", *ctx.reductions), slopes, strict=True))
        share = by.get("logsumexp", 0.0) - by["logp"]  # [T], of p
        factor = share[:, None]
        if "entropy" in by:
            factor = factor - by["entropy"][:, None] * (logs + entropy[:, None])
        dz = logs.exp().mul_(factor)
        return dz.scatter_add_(1, target[:, None], by["logp"][:, None]), None, None
