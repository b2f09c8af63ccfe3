"""A reward for form alone."""

from __future__ import annotations

from dataclasses import replace

from equipoise.protocols import Part, lift
from equipoise.types import FAILED, Group


def answered() -> Part:
    """1 where the verifier could read an answer, right or wrong, else 0. Right and wrong stay the verifier's."""

    def f(group: Group) -> Group:
        scores = [s if s.status in FAILED else replace(s, value=float(s.status != "unparsed")) for s in group.scores]
        return replace(group, scores=tuple(scores))

    return lift("answered", f, ["scores"], ["scores"])
