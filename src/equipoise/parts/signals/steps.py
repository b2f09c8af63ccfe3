"""Which steps of a response are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts.checks import require
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import Group, Response, Task


def steps(task: Task, flip: float = 0.0) -> Part:
    """``Score.steps`` from the task's own check of steps: +1 for tokens of right steps, -1 of wrong ones, 0 of none.
    ``flip``: the share of labels turned round, for a judge that errs: drawn for each step of each response."""
    if not 0 <= flip <= 1:
        raise ArgumentError(f"flip={flip:g}: the share of labels turned round; expected a number in [0, 1]")
    require(task, "a check of steps", task.steps, "credit for steps")

    def one(engine: Engine, key: Key, group: Group) -> Group:
        assert task.steps is not None
        scores = []
        for i, (r, s) in enumerate(zip(group.responses, group.scores, strict=True)):
            found = task.steps(group.prompt, r.text)
            said = [(a, b, ok != ((key / i).uniform(k) < flip)) for k, (a, b, ok) in enumerate(found)]
            scores.append(replace(s, steps=_labels(engine, r, said)))
        return replace(group, scores=tuple(scores))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        key = ctx.key / "steps" / ctx.step
        return [one(ctx.engine, key / k, g) for k, g in enumerate(groups)], state

    return Part(f"steps(flip {flip:g})" if flip else "steps", run, frozenset({"scores"}), frozenset({"scores"}))


def _labels(engine: Engine, response: Response, spans: Sequence[tuple[int, int, bool]]) -> NDArray[np.float32]:
    """Spans of the text as labels of tokens [n]: a token belongs to the span where its text ends."""
    ends = [len(engine.decode(response.ids[: t + 1].tolist())) for t in range(len(response.ids))]
    labels = np.zeros(len(ends), dtype=np.float32)
    for t, (before, end) in enumerate(zip([0, *ends], ends, strict=False)):
        for first, last, right in spans:
            if end > before and first < end <= last:
                labels[t] = 1.0 if right else -1.0
    return labels
