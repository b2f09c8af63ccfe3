"""How long each piece takes by the figures of the hardware: generation, learning, publication."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.engine import flops
from equipoise.errors import ArgumentError
from equipoise.plan.cluster import Cluster
from equipoise.plan.decode import Phases, Speed, phases, seconds
from equipoise.plan.work import Draw

NUMBER = 2  # bytes of a bfloat16
STATE = 16  # bytes a trained parameter: float32 weight, gradient and two moments; the bfloat16 copy is apart


@dataclass(frozen=True)
class Learned:
    """A step of the learners."""

    seconds: float
    compute_s: float  # of a rank with an equal share
    uneven_s: float  # more, for the fullest rank
    exchange_s: float  # more, for collectives that computation does not hide


class Roofline:
    """Seconds of the pieces on one cluster. Raises ArgumentError when the model does not fit."""

    def __init__(self, c: Cluster) -> None:
        self.c, self.gpu, self.model = c, c.figures, c.shape
        self.info = self.model.info(c.trainable)
        self.weights = NUMBER * self.model.parameters
        self._fits()

    # -- memory ----------------------------------------------------------------------------------------------------

    def _fits(self) -> None:
        least = least_learners(self.c)
        if self.c.learners < least:
            raise ArgumentError(
                f"{self.c.learners} learners hold too little memory for {self.model.name}: weights, gradients and "
                f"optimiser need {least} of {self.gpu.name}. Add learners, or train an adapter (trainable below 1)."
            )
        longest = self.c.prompt_tokens + self.c.response_max
        if self.cache_tokens < longest:
            raise ArgumentError(
                f"a sampler of {self.c.sampler_gpus} x {self.gpu.name} has room for {max(self.cache_tokens, 0):.0f} "
                f"tokens of cache beside the weights of {self.model.name}, and one response may need {longest}. Raise "
                "sampler_gpus."
            )

    @property
    def cache_tokens(self) -> float:
        """That fit a sampler beside the weights."""
        free = self.c.room * self.c.sampler_gpus * self.gpu.memory_bytes - self.weights
        return free / self.model.cache_bytes()

    # -- generation ------------------------------------------------------------------------------------------------

    def flight(self, share: Draw) -> Phases:
        return phases(share, self.cache_tokens, self.c.rows)

    def generate(self, share: Draw) -> dict[str, float]:
        """Seconds of a sampler's share of a step by what they go to; every prompt is read once, before all tokens."""
        compute = self.c.sampler_gpus * self.gpu.flops * self.c.mfu
        memory = self.c.sampler_gpus * self.gpu.memory_bytes_s * self.c.memory_use
        speed = Speed(
            weights_s=self.weights / memory,
            cached_s=self.model.cache_bytes() / memory,
            row_s=flops.forward(self.info, 1, 0, 1) / compute,
            constant_s=self.c.token_step_s,
        )
        first = np.unique(share.group, return_index=True)[1]
        lengths = share.prompts[first]
        prefill = flops.forward(self.info, int(lengths.sum()), int((lengths * (lengths + 1) // 2).sum()), len(first))
        return {"prompts": prefill / compute, **seconds(self.flight(share), speed)}

    # -- learning --------------------------------------------------------------------------------------------------

    def learn(self, step: Draw) -> Learned:
        """Seconds of a step's forward and backward passes. A response stays on one rank."""
        tokens, trained = (step.prompts + step.lengths)[step.trained], step.lengths[step.trained]
        if not len(tokens):
            return Learned(0.0, 0.0, 0.0, 0.0)
        seen = tokens * (tokens + 1) // 2
        work = np.asarray(flops.training(self.info, tokens, seen, trained))  # type: ignore[arg-type]  # element-wise
        speed = self.gpu.flops * self.c.mfu
        fullest = largest_load(work, self.c.learners)
        mean = float(work.sum()) / self.c.learners
        passes = np.ceil(tokens.sum() * fullest / work.sum() / self.c.micro_tokens)
        hidden = fullest / speed
        exchange = max(float(passes) * self.exchange_s - hidden, 0.0)
        return Learned(hidden + exchange, mean / speed, (fullest - mean) / speed, exchange)

    @property
    def exchange_s(self) -> float:
        """Of one micro-batch: weights gathered for the forward and for the backward pass, gradients scattered."""
        ranks = self.c.learners
        sent = NUMBER * self.model.parameters * (2 + self.c.trainable) * (ranks - 1) / ranks
        return sent / (self.gpu.node_bytes_s if ranks <= self.gpu.node else self.gpu.network_bytes_s)

    # -- publication -----------------------------------------------------------------------------------------------

    @property
    def published_bytes(self) -> float:
        """Of one version: the weights, or the adapter."""
        return self.weights * self.c.trainable

    @property
    def send_s(self) -> float:
        """From the learners' links, which send a copy to every sampler, to the samplers' links."""
        out = self.published_bytes * self.c.samplers / (self.c.senders or self.c.learners)
        into = self.published_bytes / self.c.sampler_gpus
        return self.c.latency_s + max(out, into) / self.gpu.network_bytes_s


def least_learners(c: Cluster) -> int:
    """Learners that hold weights, gradients and optimiser in the memory there is room for."""
    state = c.shape.parameters * (NUMBER + STATE * c.trainable)
    return int(np.ceil(state / (c.room * c.figures.memory_bytes)))


def largest_load(work: NDArray[np.float64], ranks: int) -> float:
    """Of the fullest rank, when the largest pieces are given out first, each to the emptiest rank."""
    loads = [0.0] * min(ranks, len(work))
    for piece in np.sort(work)[::-1].tolist():
        heapq.heapreplace(loads, loads[0] + piece)
    return max(loads)
