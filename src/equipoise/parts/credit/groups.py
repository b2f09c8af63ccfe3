"""Reading scores from groups and writing notes on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group, Note

Array = NDArray[np.float64]
Pool = Literal["group", "batch"]  # what a response is compared with: its group, or every response of the step


def values(group: Group) -> tuple[Array, NDArray[np.bool_]]:
    """Scores [N] and which of them are verdicts [N]."""
    live = np.array([s.status not in FAILED for s in group.scores])
    return np.array([s.value for s in group.scores], dtype=np.float64), live


def noted(group: Group, **notes: Note) -> Group:
    """The group with more notes."""
    return replace(group, notes={**group.notes, **notes})


def per_response(group: Group, name: str) -> Array:
    """A response note's values [N]."""
    return np.asarray(group.notes[name].values[0], dtype=np.float64)


def with_advantage(group: Group, a: Array) -> Group:
    return noted(group, advantage=Note("response", (a,)))


def untrained(group: Group, which: Array | NDArray[np.bool_]) -> Group:
    """The responses ``which`` [N] keep their place in the group's statistics and lose their trained tokens."""
    responses = [
        replace(r, trained=np.zeros_like(r.trained)) if off else r
        for r, off in zip(group.responses, which, strict=True)
    ]
    return replace(group, responses=tuple(responses))


def token_values(group: Group, name: str) -> list[Array]:
    """A note's values for every token: [n] of each response; those of a response repeated over its tokens."""
    note = group.notes[name]
    if note.level == "token":
        return [np.asarray(x, dtype=np.float64) for x in note.values]
    return [np.full(len(r.ids), x) for r, x in zip(group.responses, per_response(group, name), strict=True)]


def pooled(name: str, pool: Pool, f: Callable[[Array, NDArray[np.bool_], Array], Array], needs: Sequence[str]) -> Part:
    """Advantages [M] from the scores [M] of a pool, which of them are verdicts [M], and the advantages so far [M] (0 if
    there are none). A pool is a group, or all groups of the step."""
    if pool not in ("group", "batch"):
        raise ArgumentError(f"{name}: pool={pool!r}; expected 'group' or 'batch'")

    def together(groups: Sequence[Group]) -> list[Group]:
        scores = [values(g) for g in groups]
        had = [per_response(g, "advantage") if "advantage" in g.notes else np.zeros(len(g.responses)) for g in groups]
        r, live = (np.concatenate([s[k] for s in scores]) for k in (0, 1))
        a = f(r, live.astype(bool), np.concatenate(had))
        parts = np.split(a, np.cumsum([len(g.responses) for g in groups])[:-1])
        return [with_advantage(g, mine) for g, mine in zip(groups, parts, strict=True)]

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        pools = [[g] for g in groups] if pool == "group" else [groups] if groups else []
        return [g for each in pools for g in together(each)], state

    label = name if pool == "group" else f"{name}(batch)"
    return Part(label, run, frozenset(needs), frozenset({"advantage"}))
