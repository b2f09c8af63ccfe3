"""Which groups and responses are kept."""

from __future__ import annotations

from typing import Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import untrained, values
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Group


def keep_mixed(by: Literal["value", "status"] = "value") -> Part:
    """Drop groups whose scores are all equal: they say nothing about what to prefer. They stay charged and recorded.

    ``by``: rewards; or whether a response is right, for methods that know nothing but right and wrong."""
    if by not in ("value", "status"):
        raise ArgumentError(f"keep_mixed: by={by!r}; expected 'value' or 'status'")

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        kept: list[Group] = []
        for g in groups:
            r, live = values(g)
            if by == "status":
                r = np.array([float(s.status == "right") for s in g.scores])
            mixed = bool(live.any()) and r[live].max() > r[live].min()
            (kept if mixed else ctx.dropped).append(g)
        return kept, state

    return Part("keep_mixed" if by == "value" else "keep_mixed(status)", run, needs=frozenset({"scores"}))


def mask_truncated() -> Part:
    """Responses that reached the longest length lose their trained tokens; they stay in the group's statistics."""
    return lift("mask_truncated", lambda g: untrained(g, np.array([r.stop == "length" for r in g.responses])))
