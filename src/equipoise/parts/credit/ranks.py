"""Ranks within a group: less reward for what was likely anyway, and which responses are learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts.credit.groups import Array, untrained, values
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Group, Response

Kept = Literal["all", "best", "best+random", "best+worst"]


def penalise_likely(weight: float) -> Part:
    """r_i (1 - weight k_i / N): k_i = 0 for the group's least likely response, N-1 for its likeliest, by the sampler's
    mean log-prob a token; equals share their mean rank. 2506.02355."""
    if not 0 <= weight <= 1:
        raise ArgumentError(f"weight={weight}: the share of the reward that the likeliest loses; expected in [0, 1]")

    def f(group: Group) -> Group:
        from scipy.stats import rankdata

        ranks = rankdata([_mean_logprob(r) for r in group.responses]) - 1.0
        factors = 1.0 - weight * ranks / len(ranks)
        scores = [
            replace(s, value=s.value * float(k), parts={**s.parts, "verdict": s.value})
            for s, k in zip(group.scores, factors, strict=True)
        ]
        return replace(group, scores=tuple(scores))

    return lift(f"penalise_likely({weight:g})", f, ["scores"], ["scores"])


def _mean_logprob(response: Response) -> float:
    if response.logprobs is None:
        raise ArgumentError("ranks by likelihood need the sampler's log-probs; this response was given, not sampled")
    own = response.logprobs[response.trained]
    return float(own.astype(np.float64).mean()) if len(own) else 0.0


def keep_ranked(kept: Kept, by: str | None = None) -> Part:
    """Of each group only the best response by score is learned from, or the best and a random other, or the best and
    the worst; the others keep their place in the statistics. ``by``: a part of the score to rank by. 2409.06957."""
    if kept not in ("all", "best", "best+random", "best+worst"):
        raise ArgumentError(f"kept={kept!r}: expected 'all', 'best', 'best+random' or 'best+worst'")

    def choose(key: Key, group: Group) -> NDArray[np.bool_]:
        _, live = values(group)
        r = [s.value if by is None else s.parts.get(by, s.value) for s in group.scores]
        order = sorted(np.flatnonzero(live).tolist(), key=lambda i: (-r[i], i))
        others = order[1:]
        if kept == "best+random" and others:
            others = [others[key.integer(len(others))]]
        chosen = {"all": order, "best": order[:1]}.get(kept, order[:1] + others[-1:])
        return np.isin(np.arange(len(r)), chosen)

    return _selection(f"keep_ranked({kept})", choose)


def keep_one_of_each() -> Part:
    """One right and one wrong response of each group, drawn at random, are learned from. Groups of one kind are
    dropped: they are recorded and stay charged."""

    def choose(key: Key, group: Group) -> NDArray[np.bool_]:
        _, live = values(group)
        right = np.array([s.status == "right" for s in group.scores])
        kinds = [np.flatnonzero(live & right), np.flatnonzero(live & ~right)]
        chosen = [int(kind[key.integer(len(kind), n)]) for n, kind in enumerate(kinds) if len(kind)]
        return np.isin(np.arange(len(right)), chosen if len(chosen) == 2 else [])

    return _selection("keep_one_of_each", choose)


def _selection(name: str, choose: Callable[[Key, Group], NDArray[np.bool_]]) -> Part:
    """Train on the responses that ``choose`` marks [N]; a group of which it marks none is dropped."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        kept: list[Group] = []
        for j, g in enumerate(groups):
            mask = choose(ctx.key / ctx.step / "kept" / j, g)
            if mask.any():
                kept.append(untrained(g, ~mask))
            else:
                ctx.dropped.append(g)
        return kept, state

    return Part(name, run, needs=frozenset({"scores"}))


def explained(groups: Sequence[Group], model: str = "model", true: str = "true") -> float:
    """R^2 of the true score on the model's over the responses learned from; 0 where either does not vary.

    A filter is better the higher it is on what the filter keeps (2409.06957)."""
    pairs = [
        (s.parts[model], s.parts[true])
        for g in groups
        for r, s in zip(g.responses, g.scores, strict=True)
        if r.trained.any() and model in s.parts and true in s.parts
    ]
    x: Array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(x) < 2 or not x.std(axis=0).all():
        return 0.0
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return float((z[:, 0] * z[:, 1]).mean() ** 2)
