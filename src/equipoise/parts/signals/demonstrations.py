"""What a response and its prompt's demonstration have in common, and an embedding of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.parts.checks import require
from equipoise.parts.sources.given import shown
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Cost, Group, Note, Task

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]


def common(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[Mask, Mask]:
    """A longest common subsequence of tokens ``a`` [n] and ``b`` [m], as its places in either: [n], [m]. Of several
    the one that is found last in both."""
    equal = a[:, None] == b[None, :]
    longest = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int64)
    for i in range(len(a)):
        longest[i + 1, 1:] = np.maximum.accumulate(np.maximum(longest[i, 1:], longest[i, :-1] + equal[i]))
    in_a, in_b = np.zeros(len(a), dtype=bool), np.zeros(len(b), dtype=bool)
    i, j = len(a), len(b)
    while i and j:
        if equal[i - 1, j - 1] and longest[i, j] == longest[i - 1, j - 1] + 1:
            i, j = i - 1, j - 1
            in_a[i] = in_b[j] = True
        elif longest[i - 1, j] == longest[i, j]:
            i -= 1
        else:
            j -= 1
    return in_a, in_b


def embedding(z: Floats, v: Floats, keep: Mask) -> NDArray[np.float64]:
    """Mean of ``z`` [n, K] over the tokens to ``keep`` [n], weighed by exp(v) [n]; zeros where there are none."""
    if not keep.any():
        return np.zeros(z.shape[1])
    weight = np.exp(v[keep] - v[keep].max())
    return np.asarray(weight @ z[keep] / weight.sum(), dtype=np.float64)


def beside_demonstration(task: Task, head: str, weigh: str = "value") -> Part:
    """Reads each prompt's demonstration with the policy as it is, without gradient, and notes, of every response,

    common [n]: 1 at the tokens of a longest common subsequence with it, the ends of turns left out;
    contrast [N]: 1 right, -1 wrong with tokens in common while the demonstration has others too, 0 otherwise;
    demonstrated [N, K]: mean of the head ``head`` over the demonstration, weighed by exp of the head ``weigh``: over
    all its tokens beside a right response, over those that a wrong one does not have.

    One label a prompt each time; groups whose demonstration the budget does not allow are dropped. 2508.15868."""
    require(task, "demonstrations", task.demonstrate, "comparing responses with demonstrations")
    needs = [f"head:{head}", f"head:{weigh}"]

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        given = [shown(ctx.engine, task, g.prompt) for g in groups]
        label = Cost(labels={"demonstration": 1})
        sizes = [(len(g.prompt.ids or ()), len(g.responses[0].ids)) for g in given]
        fits = ctx.reserve([ctx.engine.bound(p, 1, n, False, 1, 0) + label for p, n in sizes])
        ctx.dropped.extend(groups[fits:])
        read = ctx.engine.outputs(given[:fits], needs) if fits else []
        ends = ctx.engine.info.eos
        return [_compared(g, d, out, needs, ends) for g, d, out in zip(groups, given, read, strict=False)], state

    gives = frozenset({"note:demonstrated"})
    name = f"beside_demonstration({head})"
    return Part(name, run, frozenset({"responses", "scores", *needs}), gives, frozenset({"labels"}))


def _compared(
    group: Group, given: Group, out: Mapping[str, Sequence[Floats]], needs: Sequence[str], ends: Sequence[int]
) -> Group:
    (demonstration,) = given.responses
    said = demonstration.trained
    z, v = (np.asarray(out[name][0])[said] for name in needs)
    speech = demonstration.ids[said]
    shared, kind, embedded = [], [], []
    for r, s in zip(group.responses, group.scores, strict=True):
        mine, theirs = common(r.ids[r.trained], speech)
        mine, theirs = mine & ~np.isin(r.ids[r.trained], ends), theirs & ~np.isin(speech, ends)
        right = s.status == "right"
        used = r.trained.any() and s.status not in FAILED and (right or (mine.any() and not theirs.all()))
        where = np.zeros(len(r.ids))
        where[r.trained] = mine
        shared.append(where)
        kind.append(0.0 if not used else 1.0 if right else -1.0)
        embedded.append(embedding(z, v, np.ones(len(speech), dtype=bool) if right else ~theirs))
    notes = {
        "common": Note("token", tuple(shared)),
        "contrast": Note("response", (np.array(kind),)),
        "demonstrated": Note("response", (np.array(embedded),)),
    }
    return replace(group, notes={**group.notes, **notes})
