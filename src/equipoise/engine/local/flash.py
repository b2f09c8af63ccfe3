"""The processor's flash attention kernel, which also tells the logarithm of its softmax's denominator.

What it finds among some keys and among others adds up by these logarithms (``fused``, ``blocks``). Its products are
MKL's, whatever those of the layers are: they are so small that oneDNN takes several times longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from equipoise.engine.local.products import by_onednn, exact_by_onednn

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Part = tuple[Tensor, ...]  # what is found among some keys [B, H, L, D], and its softmax's log-denominator [B, H, L]


@by_onednn(False)
def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Part:
    """``query [B, H, L, D]`` over ``key`` and ``value`` [B, H, K, D]; ``bias``: added to scores, broadcast to
    [B, H, L, K]."""
    mask = None if bias is None else bias.to(query.dtype)
    found: Part = _forward(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
    return found


@by_onednn(False)
def few(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Part:
    """As ``forward``, of a handful of queries for each head's keys. The kernel multiplies head by head, which takes MKL
    four times as long as all at once on a processor that it does not know."""
    if not exact_by_onednn():
        return forward(query, key, value, False, bias, scale)
    batch, heads, length = query.shape[:3]
    q, k, v = (t.flatten(0, 1) for t in (query, key, value))
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale).view(batch, heads, length, -1)
    if bias is not None:
        scores += bias
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = torch.bmm(weights.flatten(0, 1), v).view(query.shape).div_(total)
    return out, total.log_().add_(top)[..., 0]


@by_onednn(False)
def backward(
    slope: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    found: Part,
    causal: bool,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of query, key and value, from that of what was ``found`` [B, H, L, D]."""
    mask = None if bias is None else bias.to(query.dtype)
    out, logs = found
    slopes: tuple[Tensor, Tensor, Tensor] = _backward(
        slope, query, key, value, out, logs, 0.0, causal, attn_mask=mask, scale=scale
    )
    return slopes


@by_onednn(False)
def attend(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' own attention function, which takes this kernel on CPU, as it calls it. It keeps its name, since
    models look at that to see what mask they make."""
    found: tuple[Tensor, None] = sdpa_attention_forward(*args, **kwargs)
    return found


AttentionInterface.register("sdpa", attend)
