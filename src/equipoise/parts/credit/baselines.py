"""What a reward is compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.parts.checks import require
from equipoise.parts.credit.groups import Array, Pool, pooled, untrained, values, with_advantage
from equipoise.parts.signals.verifier import judge
from equipoise.parts.sources.starts import Start, branch
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import FAILED, Decoder, Group, Score, Task


def center(pool: Pool = "group") -> Part:
    """A_i = r_i - mean of the group, or of every response of the step."""
    return pooled("center", pool, lambda r, live, a: _centred(r, live), ["scores"])


def leave_one_out(pool: Pool = "group") -> Part:
    """A_i = r_i - mean of the others, of the group or of the step: N/(N-1) (r_i - mean). Kool et al. 2019; RLOO,
    2402.14740. Alone in its pool a response gets 0."""

    def f(r: Array, live: NDArray[np.bool_], a: Array) -> Array:
        n = int(live.sum())
        return _centred(r, live) * (n / (n - 1) if n > 1 else 0.0)

    return pooled("leave_one_out", pool, f, ["scores"])


def subtract(baseline: float) -> Part:
    """A_i = r_i - a constant."""

    def f(group: Group) -> Group:
        r, live = values(group)
        return with_advantage(group, np.where(live, r - baseline, 0.0))

    return lift(f"subtract({baseline:g})", f, ["scores"], ["advantage"])


def subtract_running_mean(decay: float = 0.9) -> Part:
    """A_i = r_i - average of earlier steps' mean rewards, each step back weighing ``decay`` times less; 0 at first."""
    if not 0 <= decay < 1:
        raise ArgumentError(f"decay={decay}: expected a number in [0, 1)")

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        total, weight = state or (0.0, 0.0)
        after, _ = subtract(total / weight if weight else 0.0)(ctx, groups, None)
        known = np.concatenate([r[live] for r, live in map(values, groups)]) if groups else np.zeros(0)
        if len(known) == 0:
            return after, state
        return after, [decay * total + (1 - decay) * float(known.mean()), decay * weight + (1 - decay)]

    return Part(f"subtract_running_mean({decay:g})", run, frozenset({"scores"}), frozenset({"advantage"}))


def subtract_greedy(task: Task) -> Part:
    """A_i = r_i - r of the policy's greedy response to the prompt: drawn beside the samples, charged, not trained on,
    and the part "greedy" of their scores. ReMax, 2310.10505. Groups whose greedy response the budget does not allow
    are dropped; where its verdict failed, advantages are 0."""
    require(task, "a verifier", task.verify, "a greedy baseline")
    decoder = Decoder(task.max_new_tokens, 0.0)

    def against(group: Group, greedy: Score) -> Group:
        r, live = values(group)
        live = live & (greedy.status not in FAILED)
        scores = [replace(s, parts={**s.parts, "greedy": greedy.value}) for s in group.scores]
        return with_advantage(replace(group, scores=tuple(scores)), np.where(live, r - greedy.value, 0.0))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        drawn = judge(task, branch(ctx, [Start(g.prompt) for g in groups], 1, decoder, "greedy"))
        ctx.dropped.extend(groups[len(drawn) :])
        return [against(g, best.scores[0]) for g, best in zip(groups, drawn, strict=False)], state

    spends, sizes = frozenset({"generated_tokens"}), {"tried": 1}
    return Part("subtract_greedy", run, frozenset({"scores"}), frozenset({"advantage"}), spends, sizes)


def by_outcome(right: float, wrong: float) -> Part:
    """A_i = ``right`` where the response is right, -``wrong`` where it is not; no baseline. Responses of weight 0 lose
    their trained tokens, so they are in no denominator."""
    if right < 0 or wrong < 0 or right == wrong == 0:
        raise ArgumentError(
            f"weights of right and wrong responses: got {right:g} and {wrong:g}; expected two numbers of at least 0, "
            "not both 0 (wrong ones are pushed down by their weight)"
        )

    def f(group: Group) -> Group:
        live = values(group)[1]
        a = np.where([s.status == "right" for s in group.scores], right, -wrong)
        return untrained(with_advantage(group, np.where(live, a, 0.0)), a == 0)

    return lift(f"by_outcome({right:g}, {-wrong:g})", f, ["scores"], ["advantage"])


def _centred(r: Array, live: NDArray[np.bool_]) -> Array:
    known = r[live]
    if len(known) == 0 or known.max() == known.min():  # exact: no float noise where nothing differs
        return np.zeros(len(r))
    return np.where(live, r - known.mean(), 0.0)
