"""Credit for the attempts of a conversation, each for its own tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import Array, noted
from equipoise.parts.signals.turns import verdicts
from equipoise.parts.sources.spans import spans
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import FAILED, Group, Note, Response, Score

Criterion = Literal["all", "better", "best", "success"]
KEEPS: dict[
    str, Callable[[Array], NDArray[np.bool_]]
] = {  # [K] verdicts of the turns -> which of them are learned from
    "all": lambda r: np.ones(len(r), dtype=bool),
    "better": lambda r: np.diff(r, prepend=-np.inf) > 0,
    "best": lambda r: r == r.max(initial=-np.inf),
    "success": lambda r: r >= 1,
}


def by_turn(first: float = 1.0, progress: float = 0.0, baseline: bool = False) -> Part:
    """Turn k's tokens get that turn's reward and no other's: A_1 = first r_1, A_k = r_k + progress (r_k - r_(k-1)).
    ``baseline``: less the group's mean for that turn. Notes "first_turn": 1 on the tokens of turn 1, 0 elsewhere."""

    def rewards(score: Score) -> Array:
        r = verdicts(score)
        gains = np.diff(r, prepend=0.0)
        return np.concatenate([first * r[:1], r[1:] + progress * gains[1:]]) if score.status not in FAILED else r[:0]

    def f(group: Group) -> Group:
        each = [rewards(s) for s in group.scores]
        longest = max((len(x) for x in each), default=0)
        mean = [np.mean([x[k] for x in each if len(x) > k]) if baseline else 0.0 for k in range(longest)]
        a = [_placed(r, x - mean[: len(x)]) for r, x in zip(group.responses, each, strict=True)]
        ones = [_placed(r, np.ones(1)) for r in group.responses]
        return noted(group, advantage=Note("token", tuple(a)), first_turn=Note("token", tuple(ones)))

    name = f"by_turn({first:g} r_1; r_k + {progress:g} (r_k - r_(k-1)){'; less the mean' if baseline else ''})"
    return lift(name, f, ["scores"], ["advantage", "note:first_turn"])


def _placed(response: Response, credit: Array) -> Array:
    """[n] of each turn's credit on its tokens."""
    a = np.zeros(len(response.ids))
    for span, x in zip(spans(response), credit, strict=False):
        a[span] = x
    return a


def weigh_turns(tau: float, criterion: Criterion = "all") -> Part:
    """Each turn an example of weight exp(r_k / tau), as token credit w_k / |y_k| x (responses / turns of the step), so
    that over responses a sum of -A log pi is the mean over turns of w_k times their mean NLL.

    ``criterion``: turns that are learned from: "all"; "better" than the one before (the first if there is none);
    "best" of the conversation; "success": right ones. The others lose their trained tokens."""
    if not tau > 0:
        raise ArgumentError(f"tau={tau}: the temperature of the weights exp(r / tau); expected a number above 0")
    if criterion not in KEEPS:
        raise ArgumentError(f"criterion={criterion!r}: expected one of {', '.join(KEEPS)}")

    def learned(score: Score) -> tuple[Array, NDArray[np.bool_]]:
        r = verdicts(score) if score.status not in FAILED else np.zeros(0)
        return np.exp(r / tau), KEEPS[criterion](r)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        found = [[learned(s) for s in g.scores] for g in groups]
        examples = sum(int(keep.sum()) for each in found for _, keep in each)
        scale = sum(bool(keep.any()) for each in found for _, keep in each) / max(examples, 1)
        after = []
        for g, each in zip(groups, found, strict=True):
            made = [_weighed(r, w * scale, keep) for r, (w, keep) in zip(g.responses, each, strict=True)]
            g = replace(g, responses=tuple(r for r, _ in made))
            after.append(noted(g, advantage=Note("token", tuple(a for _, a in made))))
        return after, state

    name = f"weigh_turns(exp(r / {tau:g}), {criterion})"
    return Part(name, run, frozenset({"scores"}), frozenset({"advantage"}))


def _weighed(response: Response, weights: Array, keep: NDArray[np.bool_]) -> tuple[Response, Array]:
    every = spans(response)
    sizes = np.array([len(s) for s in every[: len(weights)]])
    a = _placed(response, np.where(keep, weights / np.maximum(sizes, 1), 0.0))
    return replace(response, trained=response.trained & (a > 0)), a
