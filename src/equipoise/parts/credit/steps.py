"""Credit for the steps of a response."""

from __future__ import annotations

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import noted
from equipoise.protocols import Part, lift
from equipoise.types import Group, Note


def spare_right_steps(coefficient: float) -> Part:
    """Note "spared" on each token: ``coefficient`` in right steps of responses that are not right, 1 elsewhere. Right
    steps are tokens whose ``Score.steps`` is above 0. 1 spares nothing, 0 leaves them alone, below 0 they are praised.

    Raises ArgumentError when no response of the step has labels of steps."""
    if coefficient > 1:
        raise ArgumentError(f"coefficient={coefficient:g}: of the credit of right steps; expected at most 1")

    def f(group: Group) -> Group:
        if not any(s.steps is not None for s in group.scores) and any(r.trained.any() for r in group.responses):
            raise ArgumentError(
                f"the responses to prompt {group.prompt.id!r} have no labels of steps; put signals.steps(task) after "
                "the verifier, or use a task whose verifier fills Score.steps"
            )
        weights = []
        for r, s in zip(group.responses, group.scores, strict=True):
            right = s.steps > 0 if s.steps is not None and s.status != "right" else np.zeros(len(r.ids), dtype=bool)
            weights.append(np.where(right, coefficient, 1.0))
        return noted(group, spared=Note("token", tuple(weights)))

    return lift(f"spare_right_steps({coefficient:g})", f, ["scores"], ["note:spared"])
