"""The work of a step: responses of ragged lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.keys import Key, uniforms
from equipoise.plan.cluster import Cluster

Ints = NDArray[np.int64]
LEAST = 2.0**-54  # below every uniform but 0, whose quantile would be infinite


@dataclass(frozen=True)
class Draw:
    """Responses, in the order of their prompts: of one step, or one sampler's share of it."""

    lengths: Ints  # [R] tokens
    prompts: Ints  # [R] tokens of each one's prompt
    group: Ints  # [R] number of its prompt, rising
    trained: NDArray[np.bool_]  # [R] whether the learner runs it

    @property
    def tokens(self) -> int:
        """Generated."""
        return int(self.lengths.sum())

    def shares(self, samplers: int) -> list[Draw]:
        """Whole groups in order, as equal in number as can be: the engine's rule."""
        edges = [*np.unique(self.group, return_index=True)[1].tolist(), len(self.group)]
        groups = len(edges) - 1
        ends = [edges[groups * (k + 1) // samplers] for k in range(samplers)]
        return [self.part(slice(a, b)) for a, b in zip([0, *ends], ends, strict=False)]

    def part(self, where: slice) -> Draw:
        return Draw(self.lengths[where], self.prompts[where], self.group[where], self.trained[where])


def draw(c: Cluster, step: int) -> Draw:
    """A step's responses: log-normal lengths with a limit, the same whatever the cluster they are generated on."""
    n = c.prompts * c.samples
    group = np.repeat(np.arange(c.prompts), c.samples)
    word = (Key((c.seed, "lengths", step))).word
    u = uniforms(np.full(n, word, dtype=np.uint64), np.arange(n))
    lengths = np.ceil(c.response_tokens * np.exp(c.spread * _normal(u) - c.spread**2 / 2))
    capped = np.clip(lengths, 1, c.response_max).astype(np.int64)
    return Draw(capped, np.full(n, c.prompt_tokens), group, np.ones(n, dtype=bool))


def _normal(u: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.maximum(u, LEAST)), dtype=np.float64)


def equal(draws: Sequence[Draw]) -> list[Draw]:
    """The same work without raggedness: every response of a step as long as their mean, rounded up."""
    return [Draw(np.full_like(d.lengths, int(np.ceil(d.lengths.mean()))), d.prompts, d.group, d.trained) for d in draws]
