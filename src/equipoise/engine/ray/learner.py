"""Gradients and outputs of groups, shared out over ranks: the local learner's passes, as many on every rank.

A pass over sharded weights is a collective: if one rank makes it, all must. Micro-batches are cut the same way on every
rank, from lengths alone, so each knows how many passes the others make without asking; one with less to do repeats a
micro-batch with a zero derivative ("idle"). Gradients are summed over ranks and never averaged, since a loss is a plain
sum over groups whose denominators were fixed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from equipoise.engine.local.learner import LARGEST, Call, Learner, Metrics, Micro, pull_back, units
from equipoise.engine.local.rows import Piece, area, partition
from equipoise.protocols import TokenNotes
from equipoise.types import Group, Objective, Outputs, Totals

Cut = list[Piece]  # of one micro-batch


class Passes(nn.Module):
    """The root of the sharded modules: everything that reads weights happens inside its forward."""

    def __init__(self, whole: Learner) -> None:
        super().__init__()
        self.model, self.heads = whole.network.model, whole.heads
        self._read = whole.outputs

    def forward(self, *args: Any) -> tuple[Tensor, Any, Any]:
        out = self._read(*args)
        return out.logp, out.heads, out.reduced  # tensors that FSDP finds, to hook the backward pass on


def shard(whole: Learner) -> Passes:
    """FSDP2 on every layer, and on what is left: tables, norms, the output head with its chunks, other heads."""
    root = Passes(whole)
    names = set(getattr(whole.network.model, "_no_split_modules", None) or ())
    layers = [m for m in whole.network.model.modules() if type(m).__name__ in names]
    for module in (*layers, root):
        # The root too gives its weights back after a forward pass: it would compute with stale ones after a change.
        fully_shard(module, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo scales no sums
    return root


class ShardedLearner(Learner):
    """One rank's part of the work. ``whole``: the learner of the model, as it was before it was sharded."""

    def __init__(self, whole: Learner, rank: int, ranks: int) -> None:
        super().__init__(whole.network, whole.heads, whole.info, whole.limit, whole.stretch)
        self.rank, self.ranks = rank, ranks
        self.passes = shard(whole)

    def outputs(self, micro: Micro, needs: Sequence[str], frozen: bool = False) -> Outputs:
        return Outputs(*self.passes(micro, needs, frozen))

    def cut(self, groups: Sequence[Group], scope: str) -> list[Cut]:
        """Micro-batches, the same on every rank: small enough that every rank gets one. A group that must stay
        together is not cut for that."""
        sizes = [area(g, self.network.packs) for g in groups]
        share = -(-sum(sizes) // self.ranks)
        if scope == "group":
            share = max(share, *sizes)
        limit = self.limit if self.ranks == 1 else min(self.limit, max(share, 1))
        return partition(groups, limit, self.network.packs, self.stretch and limit == self.limit)

    def read(self, groups: Sequence[Group], needs: Sequence[str]) -> list[TokenNotes]:
        """Of this rank's micro-batches; zeros elsewhere."""
        cuts = self.cut(groups, "response")
        mine = cuts[self.rank :: self.ranks]
        notes = self._noted(groups, [self._micro(groups, cut) for cut in mine], needs)
        with torch.no_grad():
            for _ in range(self._most(cuts) - len(mine)):
                self.outputs(self._micro(groups, cuts[-1]), needs)
        return notes

    def gradient(
        self, groups: Sequence[Group], objective: Objective, totals: Totals, version: int
    ) -> tuple[Metrics, list[TokenNotes]]:
        """Metrics and notes of this rank's share."""
        call = self._call(groups, objective, totals, version)
        every = units(self.cut(groups, objective.scope), objective.scope)
        if objective.scope == "batch" and every and len(every[0]) > 1:
            self._together(call, every[0])
            return call.metrics, call.notes
        for start in range(0, len(every), self.ranks):
            self._side_by_side(call, every[start : start + self.ranks])
        return call.metrics, call.notes

    def _most(self, cuts: Sequence[Cut]) -> int:
        """Micro-batches of the rank that has most."""
        return -(-len(cuts) // self.ranks)

    def _side_by_side(self, call: Call, turn: Sequence[Sequence[Cut]]) -> None:
        """One unit a rank, or none."""
        unit = [self._micro(call.groups, cut) for cut in turn[self.rank]] if self.rank < len(turn) else []
        idle = self._micro(call.groups, turn[-1][-1])
        firsts = max(len(cuts) if len(cuts) > 1 else 0 for cuts in turn)
        first = self._firsts(call, unit if len(unit) > 1 else [], idle, firsts)
        if first:
            call.note(unit, torch.cat([out.logp for out in first]))
            for micro, before, slopes in zip(unit, first, self._slopes(call, unit, first), strict=True):
                self._pull(call, micro, before, slopes)
        elif unit:
            call.note(unit, self._one_pass(call, unit[0]))
        self._idle(call, idle, max(map(len, turn)) - len(unit))

    def _together(self, call: Call, cuts: Sequence[Cut]) -> None:
        """One unit of all ranks, whose loss no rank could tell alone: each learns what the others read."""
        unit = [self._micro(call.groups, cut) for cut in cuts]
        mine, idle = range(self.rank, len(unit), self.ranks), unit[-1]
        own = self._firsts(call, [unit[k] for k in mine], idle, self._most(cuts))
        parts: list[Any] = [None] * self.ranks
        dist.all_gather_object(parts, own)
        first = [parts[k % self.ranks][k // self.ranks] for k in range(len(unit))]
        slopes = self._slopes(call, unit, first)
        if self.rank:
            call.metrics.clear()  # of the loss, which every rank has: the first one tells
        for k in mine:
            self._pull(call, unit[k], first[k], slopes[k])
            call.note([unit[k]], first[k].logp)
        self._idle(call, idle, self._most(cuts) - len(mine))

    def _firsts(self, call: Call, micros: Sequence[Micro], idle: Micro, passes: int) -> list[Outputs]:
        """Outputs without gradient, in so many passes."""
        found = [self._first(micro, call.needs) for micro in micros]
        with torch.no_grad():
            for _ in range(passes - len(found)):
                self.outputs(idle, call.needs)
        return found

    def _idle(self, call: Call, micro: Micro, passes: int) -> None:
        """Passes that add nothing. What the loss would read is found out with the loss itself: the same weights must
        have a gradient on every rank, and others none."""
        for _ in range(passes):
            out = self.outputs(micro, call.needs, call.objective.frozen)
            slopes = self._slopes(replace(call, metrics={}), [micro], [out], checked=False)[0]
            if slopes is not None:
                pull_back(out, [None if s is None else torch.zeros_like(s) for s in slopes])


def merged(shares: Sequence[Sequence[TokenNotes]]) -> list[TokenNotes]:
    """Notes of all ranks: each has zeros where it has nothing."""

    def one(group: Sequence[TokenNotes], name: str) -> tuple[NDArray[np.floating], ...]:
        return tuple(sum(values[1:], values[0]) for values in zip(*(own[name] for own in group), strict=True))

    return [{name: one(group, name) for name in group[0]} for group in zip(*shares, strict=True)]


def added(shares: Sequence[Metrics]) -> Metrics:
    """Metrics of all ranks as those of one process."""
    total: Metrics = {}
    for name in sorted({name for share in shares for name in share}):
        values = [share[name] for share in shares if name in share]
        if name in LARGEST:
            total[name] = max(values)
        else:
            total[name] = (sum(v for v, _ in values), sum(n for _, n in values))
    return total
