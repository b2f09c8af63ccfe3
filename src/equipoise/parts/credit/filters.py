"""Which groups and responses are kept."""

from __future__ import annotations

import numpy as np

from equipoise.parts.credit.groups import untrained, values
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Group


def keep_mixed() -> Part:
    """Drop groups whose scores are all equal: they say nothing about what to prefer. They stay charged and recorded."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        kept: list[Group] = []
        for g in groups:
            r, live = values(g)
            mixed = bool(live.any()) and r[live].max() > r[live].min()
            (kept if mixed else ctx.dropped).append(g)
        return kept, state

    return Part("keep_mixed", run, needs=frozenset({"scores"}))


def mask_truncated() -> Part:
    """Responses that reached the longest length lose their trained tokens; they stay in the group's statistics."""
    return lift("mask_truncated", lambda g: untrained(g, np.array([r.stop == "length" for r in g.responses])))
