"""The vocabulary's two tables, as an update reads them: their gradients are added up where they are kept.

They are the largest tensors of a small model. Autograd would make each gradient anew in every micro-batch, zero it, and
add it to the other table's where weights are shared; on CPU that costs as much as the products. Logits are written
into one buffer, chunk by chunk, and never held: the backward pass computes all but the last chunk again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 1 << 25  # numbers of a chunk of logits


def plain(module: Any) -> bool:
    """Whether it is an embedding, or a linear layer without bias, and nothing more (no adapter, no factor)."""
    return type(module) in (nn.Embedding, nn.Linear) and getattr(module, "bias", None) is None


def _add_rows(weight: Tensor, index: Tensor, rows: Tensor) -> None:
    weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    weight.grad.index_add_(0, index, rows.to(weight.dtype))


def _add_product(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """``left [T, V]`` and ``right [T, D]``, to the gradient of ``weight [V, D]``."""
    if weight.grad is None:
        weight.grad = (left.T @ right).to(weight.dtype)
    elif left.dtype == weight.dtype:
        weight.grad.addmm_(left.T, right)
    else:
        weight.grad += left.T @ right


class Lookup(torch.autograd.Function):
    """``ids [B, L]`` -> [B, L, D]. The derivative with respect to ``weight [V, D]`` goes to ``weight.grad``; the row of
    ``padding`` has none, as in ``nn.Embedding``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        flat, rows = ids.flatten(), slope.flatten(0, -2)
        if ctx.padding is not None:
            rows = rows * (flat != ctx.padding)[:, None]
        _add_rows(ctx.weight, flat, rows)
        return None, None, None


class Buffer:
    """Memory for a chunk of logits, reused. ``holder``: who wrote it last."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)
        self.holder: object = None

    def rows(self, n: int, width: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """[n, width], with whatever it holds."""
        if self.memory.numel() < n * width or self.memory.dtype != dtype or self.memory.device != like.device:
            self.memory = torch.empty(n * width, dtype=dtype, device=like.device)
        return self.memory[: n * width].view(n, width)


@dataclass(frozen=True)
class Reading:
    """What is read of each token's logits over its temperature."""

    target: Tensor  # [T]
    temperature: Tensor | None  # [T]
    reductions: tuple[str, ...]  # "entropy", "logsumexp"
    compute: torch.dtype  # of the products
    buffer: Buffer


class Head(torch.autograd.Function):
    """``hidden [T, D]``, ``weight [V, D]`` -> log-prob of the target and each reduction, all [T], nats.

    With p the softmax: d logp = onehot - p; d logsumexp = p; d entropy = -p (log p + entropy). The derivative with
    respect to ``weight`` goes to ``weight.grad``.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, reading: Reading) -> tuple[Tensor, ...]:
        low = weight.detach().to(reading.compute)
        found: list[tuple[Tensor, ...]] = []
        for span in _spans(len(hidden), len(weight)):
            logs, normaliser = _logs(reading, span, hidden, low)
            columns = {"logsumexp": normaliser}
            if "entropy" in reading.reductions:
                columns["entropy"] = -torch.einsum("tv,tv->t", logs.exp(), logs)
            logp = logs.gather(1, reading.target[span, None])[:, 0]
            found.append((logp, *(columns[name] for name in reading.reductions)))
        out = tuple(torch.cat(column) for column in zip(*found, strict=True))
        reading.buffer.holder = ctx
        ctx.weight, ctx.reading = weight, reading
        ctx.save_for_backward(hidden, *out)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        reading, weight = ctx.reading, ctx.weight
        hidden, *out = ctx.saved_tensors
        names = ("logp", *reading.reductions)
        by, values = (dict(zip(names, each, strict=True)) for each in (slopes, out))
        low = weight.detach().to(reading.compute)
        slope = torch.empty_like(hidden)
        for span in reversed(_spans(len(hidden), len(weight))):
            kept = reading.buffer.holder is ctx  # the last chunk is still there
            reading.buffer.holder = None
            own, target = hidden[span].to(low.dtype), reading.target[span]
            logs = _again(reading, span, len(weight)) if kept else _logs(reading, span, hidden, low)[0]
            factor = (by.get("logsumexp", 0.0) - by["logp"])[span, None]  # of p
            if "entropy" in by:
                factor = factor - by["entropy"][span, None] * (logs + values["entropy"][span, None])
            dz = logs.exp_().mul_(factor).scatter_add_(1, target[:, None], by["logp"][span, None])
            if reading.temperature is not None:
                dz.div_(reading.temperature[span, None])
            dz = dz.to(low.dtype)
            slope[span] = (dz @ low).to(slope.dtype)
            if weight.requires_grad:
                _add_product(weight, dz, own)
        return slope, None, None


def _spans(tokens: int, vocabulary: int) -> list[slice]:
    """Chunks of equal size, but for the last."""
    most = max(16, CHUNK // vocabulary)
    chunks = max(1, -(-tokens // most))
    size = max(1, -(-tokens // chunks))
    return [slice(start, min(start + size, tokens)) for start in range(0, max(tokens, 1), size)]


def _again(reading: Reading, span: slice, vocabulary: int) -> Tensor:
    memory = reading.buffer.memory
    return reading.buffer.rows(span.stop - span.start, vocabulary, memory, memory.dtype)


def _logs(reading: Reading, span: slice, hidden: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs [n, V] of a chunk, in the buffer, and the logarithm of their denominator [n]."""
    own = hidden[span].to(low.dtype)
    exact = torch.promote_types(low.dtype, torch.float32)
    z = reading.buffer.rows(len(own), len(low), own, exact)
    if low.dtype == exact:
        torch.mm(own, low.T, out=z)
    else:
        z.copy_(own @ low.T)
    if reading.temperature is not None:
        z.div_(reading.temperature[span, None])
    place = reading.target[span, None]
    first = z.gather(1, place)
    torch.log_softmax(z, -1, out=z)
    return z, (first - z.gather(1, place))[:, 0]
