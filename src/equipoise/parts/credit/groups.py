"""Reading scores from groups and writing notes on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.types import FAILED, Group, Note

Array = NDArray[np.float64]


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


def centered(group: Group) -> tuple[Array, NDArray[np.bool_]]:
    r, live = values(group)
    known = r[live]
    if len(known) == 0 or known.max() == known.min():  # exact: no float noise where nothing differs
        return np.zeros(len(r)), live
    return np.where(live, r - known.mean(), 0.0), live
