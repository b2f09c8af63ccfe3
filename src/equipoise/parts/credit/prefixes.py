"""Credit that a head places on tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equipoise.parts.credit.groups import Array, noted, per_response, token_values
from equipoise.protocols import Context, Part, State
from equipoise.types import Group, Note


def prefix_weights(h: Array, right: bool) -> Array:
    """Weights [n] of the tokens of a response with head outputs h [n]: c_t = sigmoid(mean of h_1..h_t) is how right the
    response looks after token t; clamp(2 c_t - 1, 0, 1) if it is right, clamp(1 - 2 c_t, 0, 1) if it is wrong."""
    c = 1 / (1 + np.exp(-np.cumsum(h) / np.arange(1, len(h) + 1)))
    return np.clip(2 * c - 1 if right else 1 - 2 * c, 0.0, 1.0)


def weigh_by_prefix(head: str) -> Part:
    """A_t = A_i w_t with ``prefix_weights`` of the head: most where the head is sure of the outcome. 2502.06781."""

    def one(group: Group, outputs: tuple[NDArray[np.floating], ...]) -> Group:
        right = per_response(group, "right")
        a = []
        for r, x, h, ok in zip(group.responses, token_values(group, "advantage"), outputs, right, strict=True):
            weights = np.zeros(len(r.ids))
            own = np.asarray(h, dtype=np.float64).reshape(len(r.ids))[r.trained]
            weights[r.trained] = prefix_weights(own, bool(ok > 0.5))
            a.append(x * weights)
        return noted(group, advantage=Note("token", tuple(a)))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        outs = ctx.engine.outputs(groups, [f"head:{head}"]) if groups else []
        return [one(g, out[f"head:{head}"]) for g, out in zip(groups, outs, strict=True)], state

    needs = frozenset({"advantage", "note:right", f"head:{head}"})
    return Part(f"weigh_by_prefix({head})", run, needs, frozenset({"advantage"}))
