"""Continuous batching: which responses are in flight at which token step, and how long the token steps take.

Every response in flight gains one token a token step, so who runs when depends on lengths and room alone, never on
speed: faster memory can only shorten each step.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.plan.work import Draw

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Phases:
    """Runs of token steps with the same responses in flight, [K] each."""

    rows: Floats  # responses in flight
    seen: Floats  # tokens whose keys and values the run's first step reads
    steps: Floats  # token steps

    @property
    def tokens(self) -> float:
        """Generated."""
        return float((self.rows * self.steps).sum())


def phases(share: Draw, room: float, rows: int) -> Phases:
    """Responses start in order, as soon as fewer than ``rows`` are in flight and all of them, at their full length,
    fit ``room`` tokens of cache. One alone may start anyway."""
    if len(share.lengths) <= rows and int((share.lengths + share.prompts).sum()) <= room:
        return _together(share)
    lengths, prompts = share.lengths.tolist(), share.prompts.tolist()
    flying: list[tuple[int, int, int]] = []  # last token step, token step of the start, number
    found: list[tuple[int, int, int]] = []
    now = first = held = base = 0  # base: tokens seen, less one per row and token step since the beginning
    while first < len(lengths) or flying:
        while first < len(lengths):
            size = prompts[first] + lengths[first]
            if flying and (len(flying) >= rows or held + size > room):
                break
            heapq.heappush(flying, (now + lengths[first], now, first))
            held, base, first = held + size, base + prompts[first] - now, first + 1
        end = flying[0][0]
        found.append((len(flying), base + len(flying) * now, end - now))
        now = end
        while flying and flying[0][0] == now:
            _, start, i = heapq.heappop(flying)
            held, base = held - prompts[i] - lengths[i], base - prompts[i] + start
    columns = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return Phases(*columns)


def _together(share: Draw) -> Phases:
    """All start at once, and one run ends with each different length."""
    ends, counts = np.unique(share.lengths, return_counts=True)
    starts = np.concatenate([np.zeros(1, dtype=ends.dtype), ends[:-1]])[: len(ends)]
    by_length = np.argsort(share.lengths, kind="stable")
    prompts = np.cumsum(share.prompts[by_length][::-1])[::-1]  # of responses at least as long as this one
    first = np.cumsum(counts) - counts
    rows = (len(share.lengths) - first).astype(np.float64)
    return Phases(rows, prompts[first] + rows * starts, (ends - starts).astype(np.float64))


@dataclass(frozen=True)
class Speed:
    """Seconds of a token step: the larger of reading memory and computing, and a constant."""

    weights_s: float  # to read the weights
    cached_s: float  # to read one token's keys and values
    row_s: float  # to compute one row
    constant_s: float


def seconds(p: Phases, speed: Speed) -> dict[str, float]:
    """Where the time of token steps goes: reading weights or cache, computing beyond that, the constant.

    In a run the time to read grows by the same amount each token step and the time to compute stays, so the sum over
    the run of the larger one has a closed form."""
    weights, compute = np.full_like(p.rows, speed.weights_s), speed.row_s * p.rows
    growth = speed.cached_s * p.rows
    gap = compute - weights - speed.cached_s * p.seen
    with np.errstate(all="ignore"):
        bound = np.where(growth > 0, np.ceil(gap / growth), np.where(gap > 0, np.inf, 0.0))
    computing = np.clip(bound, 0, p.steps)  # token steps at the run's beginning that computation bounds
    reading = p.steps - computing
    cache = speed.cached_s * p.seen * reading + growth * (p.steps * (p.steps - 1) - computing * (computing - 1)) / 2
    return {
        "weights": float((weights * reading).sum()),
        "cache": float(cache.sum()),
        "compute": float((compute * computing).sum()),
        "constant": float((speed.constant_s * p.steps).sum()),
    }
