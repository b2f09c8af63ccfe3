"""Norms and gated products that keep little for the backward pass: what they were given, and no step in between.

For layers built like Llama's (``fused.fits``): a quarter of an update's memory, so micro-batches are larger for the
same. Whether the numbers agree is found at load (``probe``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.engine.local.fused import is_silu, layers_of


class Norm(torch.autograd.Function):
    """``x [..., D]`` over its root mean square, times ``weight [D]`` (arXiv 1910.07467, equation 4).

    With r the inverse root and n = x r: d x = r (w g - n mean(w g n)); d w = sum of g n over tokens.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        normal = x * inverse
        both = slope * normal
        mean = (both @ weight)[..., None] / x.shape[-1]
        dx = (slope * weight).addcmul_(normal, mean, value=-1).mul_(inverse)
        return dx, both.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


class Gated(torch.autograd.Function):
    """silu(``gate``) ``up``, all [..., D] (arXiv 2002.05202, section 2)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(slope * up, gate), nn.functional.silu(gate).mul_(slope)


def lighten(model: Any) -> Callable[[], None]:
    """From now on the model's norms and gated products are these; the function returned undoes it."""
    changed: list[nn.Module] = []
    for module in layers_of(model).modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm(module)
        elif hasattr(module, "gate_proj") and is_silu(getattr(module, "act_fn", None)):
            module.forward = _mlp(module)
        else:
            continue
        changed.append(module)

    def undo() -> None:
        for module in changed:
            del module.forward

    return undo


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    usual = module.forward

    def forward(x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or module.weight.dtype != torch.float32:  # in which the model's own computes
            found: Tensor = usual(x)
            return found
        return Norm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call, no-any-return]

    return forward


def _mlp(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        found: Tensor = module.down_proj(Gated.apply(module.gate_proj(x), module.up_proj(x)))  # type: ignore[no-untyped-call]
        return found

    return forward
