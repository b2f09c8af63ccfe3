"""Attention over rows of segments, on CPU: only the pairs that see each other are computed, and no mask is made.

A segment sees its own earlier tokens (a causal block) and all of its parent's (a full block). Each kind of block runs
in the flash kernel, which also gives the logarithm of its softmax's denominator; with these the blocks of a token are
added up to what one softmax over all its keys gives. The kernel's own derivative, given the sums in place of a block's
parts, is the derivative of the whole.

Source: the sum is that of online softmax (Milakov & Gimelshein, arXiv 1805.02867, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from equipoise.engine.local import flash
from equipoise.engine.local.rows import PADDING, Rows

NAME = "equipoise_blocks"  # among the attention functions of transformers


@dataclass(frozen=True)
class Side:
    """The queries or the keys of n blocks among [T] tokens. Blocks of equal length at equal distances are read where
    they lie; others are copied side by side and padded on the right."""

    spans: tuple[range, ...]  # of flat places, row * L + column

    @cached_property
    def step(self) -> int | None:
        """Between the starts of neighbours, if the blocks can be read where they lie."""
        starts = {b.start - a.start for a, b in pairwise(self.spans)} or {0}
        return min(starts) if len(starts) == 1 and min(starts) >= 0 and not self.padded else None

    @property
    def padded(self) -> bool:
        return len(set(map(len, self.spans))) > 1

    @cached_property
    def length(self) -> int:
        return max(map(len, self.spans))

    @cached_property
    def real(self) -> Tensor:
        """[n, length], False at padding."""
        return torch.arange(self.length) < torch.tensor([[len(span)] for span in self.spans])

    @cached_property
    def index(self) -> Tensor:
        """[n * length] places; at padding that of the block's first token."""
        start = torch.tensor([[span.start] for span in self.spans])
        return torch.where(self.real, start + torch.arange(self.length), start).flatten()

    @cached_property
    def slot(self) -> Tensor:
        """[m] where in ``index`` the tokens that are not padding lie."""
        return self.real.flatten().nonzero()[:, 0]

    @cached_property
    def place(self) -> Tensor:
        """[m] places of these."""
        return self.index[self.slot]

    def read(self, tokens: Tensor) -> Tensor:
        """``tokens [T, H, ...]`` -> [n, H, length, ...], a view where there is one."""
        if self.step is None:
            return _split(tokens.index_select(0, self.index), len(self.spans)).transpose(1, 2)
        along, across, *rest = tokens.stride()
        size = (len(self.spans), tokens.shape[1], self.length, *tokens.shape[2:])
        offset = tokens.storage_offset() + self.spans[0].start * along
        return tokens.as_strided(size, (self.step * along, across, along, *rest), offset)

    def write(self, tokens: Tensor, blocks: Tensor, add: bool = False) -> None:
        """Put ``blocks [n, H, length, ...]`` into ``tokens [T, H, ...]``, or add them to what is there."""
        if self.step is not None:
            view = self.read(tokens)
            view.add_(blocks) if add else view.copy_(blocks)
            return
        flat = blocks.transpose(1, 2).flatten(0, 1)
        flat = flat.index_select(0, self.slot) if self.padded else flat
        tokens.index_add_(0, self.place, flat) if add else tokens.index_copy_(0, self.place, flat)

    def blank(self, blocks: Tensor, padding: float) -> Tensor:
        """``blocks [n, H, length, ...]`` with ``padding`` where there is no token."""
        if not self.padded:
            return blocks
        real = self.real[:, None].view(len(self.spans), 1, self.length, *[1] * (blocks.dim() - 3))
        return torch.where(real, blocks, padding)


@dataclass(frozen=True)
class Batch:
    """Blocks that run together."""

    queries: Side
    keys: Side
    causal: bool  # queries and keys are the same tokens

    @staticmethod
    def of(pairs: Sequence[tuple[range, range]], causal: bool) -> Batch:
        queries = Side(tuple(query for query, _ in pairs))
        return Batch(queries, queries if causal else Side(tuple(key for _, key in pairs)), causal)

    @cached_property
    def bias(self) -> Tensor | None:
        """[n, 1, 1, length of keys], -inf at padding that a token could see: a causal block's is behind all of them."""
        if self.causal or not self.keys.padded:
            return None
        return torch.zeros(self.keys.real.shape).masked_fill_(~self.keys.real, -torch.inf)[:, None, None]


Plan = Sequence[Batch]


def _split(tokens: Tensor, parts: int) -> Tensor:
    """[parts * length, ...] -> [parts, length, ...]"""
    return tokens.view(parts, len(tokens) // parts, *tokens.shape[1:])


def plan(rows: Rows) -> list[Batch]:
    """The blocks of ``rows``: first causal ones, in which every token is a query once, then those of parents."""
    own, above = _spans(rows)
    return [*_batches(own, True), *_batches(above, False)]


def _spans(rows: Rows) -> tuple[list[tuple[range, range]], list[tuple[range, range]]]:
    """Causal blocks, and full ones of the children of a parent, which lie side by side. An only child beside its parent
    continues it: one causal block."""
    own: list[tuple[range, range]] = []
    above: list[tuple[range, range]] = []
    for row in range(len(rows.ids)):
        spans = _runs(rows.segment[row], row * rows.ids.shape[1])
        children: dict[int, list[range]] = {}
        for span in spans.values():
            parent = int(rows.parent.flat[span.start])
            if parent >= 0:
                children.setdefault(parent, []).append(span)
        alone = {p for p, found in children.items() if len(found) == 1 and found[0].start == spans[p].stop}
        for number, span in spans.items():
            parent = int(rows.parent.flat[span.start])
            if number in alone:
                span = range(span.start, children[number][0].stop)
            if parent not in alone:
                own.append((span, span))
        for parent, found in children.items():
            if parent not in alone:
                above.append((range(found[0].start, found[-1].stop), spans[parent]))
    return own, above


def _runs(segment: NDArray[np.int64], offset: int) -> dict[int, range]:
    """Segment -> its places."""
    edges = np.flatnonzero(np.diff(segment, prepend=PADDING - 1, append=PADDING - 1)).tolist()
    return {int(segment[a]): range(offset + a, offset + b) for a, b in pairwise(edges) if segment[a] != PADDING}


LARGE = 1 << 15  # pairs of a block that is worth a call of its own, in which nothing is copied
MANY = 4  # blocks of equal size that are


def _batches(pairs: Sequence[tuple[range, range]], causal: bool) -> list[Batch]:
    """Blocks of equal size run together. So do a few small ones with others of similar size: less than half of a side
    is padding."""
    found: list[list[tuple[range, range]]] = []
    open_to: tuple[int, int] = (0, 0)  # the largest sizes of the last batch, if others may join it
    for (keys, queries), same in groupby(sorted(pairs, key=_by_size), lambda pair: (len(pair[1]), len(pair[0]))):
        own = list(same)
        joins = len(own) < MANY and keys * queries < LARGE
        if joins and 2 * keys >= open_to[0] > 0 and 2 * queries >= open_to[1]:
            found[-1] += own
        else:
            found.append(own)
            open_to = (keys, queries) if joins else (0, 0)
    return [Batch.of(group, causal) for group in found]


def _by_size(pair: tuple[range, range]) -> tuple[int, int, int]:
    query, key = pair
    return -len(key), -len(query), query.start


class Attention(torch.autograd.Function):
    """``query [T, H, D]``, ``key`` and ``value`` [T, H', D] -> [T, H, D]; H / H' heads read the same keys. Padding
    gives 0."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, batches: Plan, scale: float) -> Tensor:
        out = torch.zeros_like(query)
        total = torch.zeros(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))  # log-denominators
        for batch in batches:
            own, log = _forward(batch, query, key, value, scale)
            if not batch.causal:
                before = batch.queries.read(total)
                sums = torch.logaddexp(before, log)
                kept, share = ((x - sums).exp_()[..., None].to(own.dtype) for x in (before, log))
                own, log = own.mul_(share).addcmul_(batch.queries.read(out), kept), sums
            batch.queries.write(out, own)
            batch.queries.write(total, log)
        ctx.batches, ctx.scale = batches, scale
        ctx.save_for_backward(query, key, value, out, total)
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, total = ctx.saved_tensors
        grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for batch in ctx.batches:
            found = _backward(batch, slope, query, key, value, out, total, ctx.scale)
            for grad, own, side in zip(grads, found, (batch.queries, batch.keys, batch.keys), strict=True):
                side.write(grad, own, add=not batch.causal)
        return *grads, None, None


def _forward(batch: Batch, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[n, H, length, D] and [n, H, length]. Heads that read different keys in one call: no key is copied for each."""
    times = query.shape[1] // key.shape[1]
    q, k, v = batch.queries.read(query), batch.keys.read(key), batch.keys.read(value)
    parts = [flash.forward(q[:, g::times], k, v, batch.causal, batch.bias, scale) for g in range(times)]
    return _woven([out for out, _ in parts]), _woven([log for _, log in parts])


def _backward(
    batch: Batch,
    slope: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value: [n, H or H', length, D]."""
    times, side = query.shape[1] // key.shape[1], batch.queries
    q, k, v = side.read(query), batch.keys.read(key), batch.keys.read(value)
    o, slopes = side.read(out), side.read(slope)
    logs = side.blank(side.read(total), torch.inf)  # padding has weight 0, so its slopes go nowhere
    heads = [slice(g, None, times) for g in range(times)]
    parts = [
        flash.backward(slopes[:, h], q[:, h], k, v, (o[:, h], logs[:, h]), batch.causal, batch.bias, scale)
        for h in heads
    ]
    keys, values = (sum((p[i] for p in parts[1:]), parts[0][i]) for i in (1, 2))
    return _woven([p[0] for p in parts]), keys, values


def _woven(parts: Sequence[Tensor]) -> Tensor:
    """Every k-th head from part k: times [n, H', length, ...] -> [n, H, length, ...], each token's heads together."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([p.transpose(1, 2) for p in parts], 3).flatten(2, 3).transpose(1, 2)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, blocks: Plan, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """As ``transformers`` calls it: [B, H, L, D] and twice [B, H', L, D] -> [B, L, H, D]. Raises TypeError for what
    blocks do not have: windows, soft caps, sinks."""
    more = {k for k in ("sliding_window", "softcap", "s_aux", "position_bias") if kwargs.get(k) is not None}
    if more:
        raise TypeError(f"attention by blocks has no {', '.join(sorted(more))}")
    exact = torch.promote_types(value.dtype, torch.float32)  # in bfloat16 its derivative takes four times as long
    flat = (t.transpose(1, 2).flatten(0, 1).to(exact) for t in (query, key, value))
    return Attention.apply(*flat, blocks, scaling).unflatten(0, (query.shape[0], -1)), None  # type: ignore[no-untyped-call]


AttentionInterface.register(NAME, attend)
