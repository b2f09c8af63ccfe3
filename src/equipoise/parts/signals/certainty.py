"""How sure the policy is of what it said: rewards without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.protocols import Context, Part, State
from equipoise.types import Group, Score

Measure = Literal["likelihood", "entropy"]


def certainty(measure: Measure) -> Part:
    """r_i = sum_t log pi(y_it) ("likelihood", from the sampler's log-probs) or -sum_t H(pi_t) ("entropy", nats, over
    the vocabulary, at the sampling temperature). EM-RL, 2505.15134. No verdict: the score's status says nothing."""
    if measure not in ("likelihood", "entropy"):
        raise ArgumentError(f"certainty({measure!r}): expected 'likelihood' or 'entropy'")

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        if measure == "likelihood" or not groups:
            return [_rewarded(g, [_likelihood(g, i) for i in range(len(g.responses))]) for g in groups], state
        noted = ctx.engine.outputs(groups, ["entropy"])
        sums = [[-float(h.sum()) for h in note["entropy"]] for note in noted]
        return [_rewarded(g, r) for g, r in zip(groups, sums, strict=True)], state

    needs = frozenset({"responses"}) | ({"entropy"} if measure == "entropy" else set())
    return Part(f"certainty({measure})", run, needs=needs, gives=frozenset({"scores"}))


def _likelihood(group: Group, i: int) -> float:
    response = group.responses[i]
    if response.logprobs is None:
        raise ArgumentError(f"certainty: response {i} to prompt {group.prompt.id!r} has no log-probs; sample it first")
    return float(np.asarray(response.logprobs, dtype=np.float64)[response.trained].sum())


def _rewarded(group: Group, rewards: Sequence[float]) -> Group:
    return replace(group, scores=tuple(Score(r) for r in rewards))
