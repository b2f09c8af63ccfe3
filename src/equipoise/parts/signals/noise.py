"""A scorer that errs, in place of a learned reward model."""

from __future__ import annotations

import math
from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group


def noisy(deviation: float) -> Part:
    """The score plus a normal error of this standard deviation: a fixed function of seed, prompt and reply, as that
    of a learned model is. Parts "true" and "model" keep both; right and wrong stay the verifier's."""
    if not 0 <= deviation < math.inf:
        raise ArgumentError(f"deviation={deviation}: the standard deviation of the scorer's error; expected at least 0")

    def score(key: Key, group: Group) -> Group:
        scores = []
        for r, s in zip(group.responses, group.scores, strict=True):
            said = s.value if s.status in FAILED else s.value + deviation * _normal(key / group.prompt.id / r.text)
            scores.append(replace(s, value=said, parts={**s.parts, "true": s.value, "model": said}))
        return replace(group, scores=tuple(scores))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        key = Key(ctx.key.path[:1]) / "scorer"  # of the seed alone: one scorer a run
        return [score(key, g) for g in groups], state

    return Part(f"noisy({deviation:g})", run, frozenset({"scores"}), frozenset({"scores"}))


def _normal(key: Key) -> float:
    """A standard normal number (Box and Muller)."""
    return math.sqrt(-2.0 * math.log1p(-key.uniform(0))) * math.cos(2.0 * math.pi * key.uniform(1))
