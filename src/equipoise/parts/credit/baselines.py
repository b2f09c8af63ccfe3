"""What a reward is compared with."""

from __future__ import annotations

from equipoise.parts.credit.groups import centered, with_advantage
from equipoise.protocols import Part, lift
from equipoise.types import Group


def center() -> Part:
    """A_i = r_i - mean of the group."""
    return lift("center", lambda g: with_advantage(g, centered(g)[0]), ["scores"], ["advantage"])


def leave_one_out() -> Part:
    """A_i = r_i - mean of the group's others = N/(N-1) (r_i - mean). Kool et al. 2019; RLOO, 2402.14740."""

    def f(group: Group) -> Group:
        a, live = centered(group)
        n = int(live.sum())
        return with_advantage(group, a * (n / (n - 1) if n > 1 else 0.0))

    return lift("leave_one_out", f, ["scores"], ["advantage"])
