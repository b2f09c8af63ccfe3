"""The floor: how long the arithmetic of a workload takes at the rate of a large matrix product on this machine.

python benchmarks/floor.py      prints the rate
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from equipoise.engine.local.products import by_onednn, exact_by_onednn
from workloads import Work

SIZE = 4096


def seconds(dtype: str, threads: int, repeats: int = 5) -> list[float]:
    """Seconds of ``repeats`` products of two square matrices of 4096 columns, by the library that is faster."""
    torch.set_num_threads(threads)
    a, b = (torch.randn(SIZE, SIZE).to(getattr(torch, dtype)) for _ in range(2))
    times = []
    with by_onednn(exact_by_onednn()):
        a @ b
        for _ in range(repeats):
            began = time.monotonic()
            a @ b
            times.append(time.monotonic() - began)
    return times


def rate(times: Sequence[float]) -> float:
    """FLOP/s: the median's."""
    return 2.0 * SIZE**3 / statistics.median(times)


@dataclass(frozen=True)
class Sizes:
    """Of a model: parameters in all, of its blocks and of its output head; layers, width of attention."""

    parameters: int
    body: int
    head: int
    layers: int
    width: int


def sizes(model: str) -> Sizes:
    from equipoise.engine.local import load

    info = load(model).info
    return Sizes(info.parameters, info.body, info.head, info.layers, info.width)


def flops(work: Work, m: Sizes) -> tuple[float, float]:
    """The least work of a step: (sampling, learning).

    Sampling: each prompt read once, then a token at a time. Learning: each prompt once and its replies after it,
    forward and backward (three times the forward), nothing computed twice; the output head on trained tokens only.
    """
    p, n, new, length = work.prompts, work.samples, work.new, work.length
    fed = n * (new - 1)  # the last token of a reply is never read
    seen_prompt = length * (length + 1) / 2
    seen_replies = n * ((new - 1) * length + (new - 1) * new / 2)

    def forward(tokens: float, seen: float, scored: float) -> float:
        return 2.0 * m.body * tokens + 4.0 * m.layers * m.width * seen + 2.0 * m.head * scored

    sampling = forward(length, seen_prompt, 1) + forward(fed, seen_replies, fed)
    learning = 3 * forward(length + fed, seen_prompt + seen_replies, n * new)
    return p * sampling, p * learning


if __name__ == "__main__":
    for kind in ("float32", "bfloat16"):
        print(f"{kind}: {rate(seconds(kind, 2)) / 1e9:.0f} GFLOP/s with 2 threads")
