"""Numbers on a group that an objective asks for."""

from __future__ import annotations

import numpy as np

from equipoise.parts.credit.groups import noted
from equipoise.protocols import Part, lift
from equipoise.types import FAILED, Group, Note


def pass_rate() -> Part:
    """Note the share of right responses in the group, to every response: what the sampling policy's success was."""

    def f(group: Group) -> Group:
        live = [s for s in group.scores if s.status not in FAILED]
        share = sum(s.status == "right" for s in live) / max(len(live), 1)
        return noted(
            group,
            pass_rate=Note("response", (np.full(len(group.responses), share),)),
            right=Note("response", (np.array([float(s.status == "right") for s in group.scores]),)),
        )

    return lift("pass_rate", f, ["scores"], ["note:pass_rate", "note:right"])
