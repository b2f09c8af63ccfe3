"""Credit for proposals to a memory of right responses."""

from __future__ import annotations

import numpy as np

from equipoise.parts.credit.groups import with_advantage
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group


def acceptance(control: bool = True) -> Part:
    """For groups of ``sources.remembered``: +1 for the response in memory after the step, and with ``control`` -b for
    the proposal, b the share of right proposals among the step's other prompts (2312.02179). So a right proposal gets
    1 - b; a wrong one -b and the remembered one 1. b says nothing of the proposal it weighs, and a score has mean 0.

    A failed verdict is no proposal: its group gets 0."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        live = np.array([g.scores[0].status not in FAILED for g in groups], dtype=bool)
        right = np.array([g.scores[0].status == "right" for g in groups], dtype=np.float64) * live
        others = live.sum() - live
        b = (right.sum() - right) / np.maximum(others, 1) if control else np.zeros(len(groups))
        after = []
        for g, ok, mine, share in zip(groups, live, right, b, strict=True):
            a = np.ones(len(g.responses))
            a[0] = mine - share
            after.append(with_advantage(g, a * ok))
        return after, state

    name = "acceptance" if control else "acceptance(no control)"
    return Part(name, run, frozenset({"scores"}), frozenset({"advantage"}))
