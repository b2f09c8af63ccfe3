"""A learner rank: the local engine with sharded weights, and what of them lies here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from equipoise.engine.local.engine import LocalEngine, adamw
from equipoise.engine.local.learner import named
from equipoise.engine.ray.learner import ShardedLearner
from equipoise.engine.ray.slices import Slice, Slices, span, tensors
from equipoise.protocols import TokenNotes
from equipoise.types import Group


def join(address: str, rank: int, ranks: int, deadline_s: float) -> None:
    """Meet the other ranks at ``address`` (host:port of rank 0). Whoever waits for all of them should give up first, to
    tell which one is silent: here a wait for another rank lasts twice as long."""
    patience = timedelta(seconds=2 * deadline_s)
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=ranks, timeout=patience)


class Rank(LocalEngine):
    """One of the processes that hold a model between them.

    FSDP2 cuts every tensor along its first dimension. The optimiser, named policies and linear combinations work on
    this rank's rows as plain tensors that share memory with FSDP's: they are element-wise, so nothing else is needed.
    """

    def __init__(self, whole: LocalEngine, rank: int, ranks: int) -> None:
        vars(self).update(vars(whole))
        self._learner = ShardedLearner(whole._learner, rank, ranks)
        self._rank, self._ranks = rank, ranks
        self._sharded = dict(named(self._network.model, self._heads))
        self._trained = {name: nn.Parameter(_local(p)) for name, p in self._sharded.items()}
        self._optimiser = adamw(self._trained.values(), self._settings.optimiser, self._network.device)

    def _clip(self, most: float) -> Tensor:
        """As on one process: the norm of all ranks' norms; with one rank the very same number."""
        for name, parameter in self._sharded.items():
            self._trained[name].grad = None if parameter.grad is None else _local(parameter.grad)
        grads = [p.grad for p in self._trained.values() if p.grad is not None]
        own = torch.nn.utils.get_total_norm(grads)
        norms = [torch.zeros_like(own) for _ in range(self._ranks)]
        dist.all_gather(norms, own)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        torch.nn.utils.clip_grads_with_norm_(self._trained.values(), most, norm)
        return norm

    def discard(self) -> None:
        for parameter in (*self._sharded.values(), *self._trained.values()):
            parameter.grad = None

    @contextlib.contextmanager
    def _as(self, policy: str) -> Iterator[None]:
        """FSDP gathers from the memory it knows, so weights are copied there and back."""
        if policy == "current":
            yield
            return
        other = self.weights(policy)
        mine = {name: p.detach().clone() for name, p in self._trained.items()}
        try:
            self._fill(other)
            yield
        finally:
            self._fill(mine)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(weights[name])

    def unmetered(self, groups: Sequence[Group], policy: str) -> list[TokenNotes]:
        """Log-probs, as ``outputs``; not charged, for what checks the machinery is no part of the method."""
        before = self._learner.cost
        try:
            return self.outputs(groups, ["logp"], policy)
        finally:
            self._learner.cost = before

    def slices(self, what: str) -> Slices:
        """This rank's rows of the "optimiser"'s moments, or of a named policy's weights."""
        if what != "optimiser":
            return {name: self._slice(name, values) for name, values in self.weights(what).items()}
        return {full: self._slice(full.split("/", 1)[1], values) for full, values in self.moments().items()}

    def _slice(self, name: str, values: Tensor) -> Slice:
        rows = values.detach().cpu().numpy()
        if not rows.shape:  # a count of steps
            return Slice((), 0, rows)
        shape = tuple(self._sharded[name].shape)
        return Slice(shape, span(shape, self._rank, self._ranks).start, rows)

    def restore(self, steps: int, weights: Slices, policies: Mapping[str, Slices], moments: Slices) -> None:
        """``adopt``, from rows."""
        named_policies = {name: tensors(values) for name, values in policies.items()}
        self.adopt(steps, tensors(weights), named_policies, tensors(moments))


def _local(tensor: Tensor) -> Tensor:
    """The rows that lie here; shares memory."""
    assert isinstance(tensor, DTensor)
    rows: Tensor = tensor.to_local()
    return rows.detach()
