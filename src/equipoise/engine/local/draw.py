"""One token for one uniform number: the cumulative distribution, inverted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equipoise.errors import Diverged


def draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probs under the distribution drawn from.

    ``logits [B, V]`` float32 or float64; ``uniform [B]`` float64 in [0, 1). Returns ids [B] long, logp [B] float32.
    Token k is drawn when F(k-1) <= u < F(k), F summed in float64 within and across blocks; a token of probability 0
    is never drawn. Temperature 0 takes the most likely token, a point mass: its log-prob is 0.
    """
    if temperature == 0:
        ids = logits.argmax(-1)
        return ids, torch.zeros(len(ids), device=logits.device)
    z = truncate(logits if temperature == 1 else logits / temperature, top_p, top_k)
    top = z.amax(-1, keepdim=True)
    ids, total = invert(z.sub(top).exp_(), uniform)
    if not bool(total.isfinite().all()):
        raise Diverged("the model's logits are NaN or infinite, so no token can be drawn. Lower the learning rate.")
    logp = (z.gather(1, ids[:, None]) - top)[:, 0].double() - total.log()
    return ids, logp.float()


def invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """``weights [B, V]``, not negative, not all 0 -> the index that ``uniform [B]`` falls on [B], and sums [B]."""
    rows, size = weights.shape
    width = _block(size)
    if size % width:
        weights = torch.nn.functional.pad(weights, (0, width - size % width))
    blocks = weights.view(rows, -1, width)
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    total = ends[:, -1]
    goal = (uniform * total)[:, None]
    block = torch.searchsorted(ends, goal, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=weights.device), block[:, 0]].double()
    within = torch.searchsorted(inside.cumsum(-1), goal - before, right=True)
    # Sums over a block and along it may differ in their last bit: then the block's last possible token is meant.
    possible = torch.where(inside > 0, torch.arange(width, device=weights.device), 0).amax(-1, keepdim=True)
    return (block * width + torch.minimum(within, possible))[:, 0], total


def _block(size: int) -> int:
    """A width near the square root of ``size``; one that divides it, if there is one, saves a copy."""
    root = max(math.isqrt(size), 16)
    return next((w for w in range(root, 4 * root) if size % w == 0), root)


def truncate(z: Tensor, top_p: float, top_k: int) -> Tensor:
    """Keep the ``top_k`` most likely tokens, then the fewest whose probability reaches ``top_p``; the rest -> -inf."""
    if 0 < top_k < z.shape[-1]:
        z = z.masked_fill(z < z.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1:
        ordered, order = z.sort(stable=True, dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        z = z.masked_fill(torch.zeros_like(z, dtype=torch.bool).scatter(1, order, before >= top_p), -math.inf)
    return z
