"""A verdict for every attempt of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.parts.signals.verifier import silenced, truncated
from equipoise.parts.sources.spans import spans
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import FAILED, Group, Response, Score, Task


def turns(task: Task) -> Part:
    """The task's verdict on each of the policy's turns, read alone: parts "turn 1", "turn 2" ... of the score, whose
    value and status are the last turn's. A truncated turn is wrong. If one verdict fails, the response has none."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        found = verdicts_on_turns(ctx.engine, task, groups)
        return [_judged(g, mine) for g, mine in zip(groups, found, strict=True)], state

    return Part("verified, turn by turn", run, needs=frozenset({"responses"}), gives=frozenset({"scores"}))


def verdicts_on_turns(engine: Engine, task: Task, groups: Sequence[Group]) -> list[list[list[Score]]]:
    """Group, response, turn -> the task's verdict on that turn, read alone. A truncated turn is wrong."""
    assert task.verify is not None
    asked = [(g.prompt, t) for g in groups for r in g.responses for t in _said(engine, r)]
    found = iter(task.verify([p for p, _ in asked], [t for _, t in asked]))
    return [
        [[truncated(next(found)) if cut else next(found) for cut in _cut(r, task)] for r in g.responses] for g in groups
    ]


def _said(engine: Engine, response: Response) -> list[str]:
    return [engine.decode(response.ids[span].tolist()) for span in spans(response)]


def _cut(response: Response, task: Task) -> list[bool]:
    """Whether each turn is longer than the task allows; the last may also have been cut off."""
    long = [len(span) > task.max_new_tokens for span in spans(response)]
    return [*long[:-1], long[-1] or response.stop == "length"] if long else []


def _judged(group: Group, found: Sequence[Sequence[Score]]) -> Group:
    scores = [_whole(mine) for mine in found]
    kept = [silenced(r) if s.status in FAILED else r for r, s in zip(group.responses, scores, strict=True)]
    return replace(group, responses=tuple(kept), scores=tuple(scores))


def _whole(found: Sequence[Score]) -> Score:
    failed = [s for s in found if s.status in FAILED]
    if failed or not found:
        return failed[0] if failed else Score(0.0, "unparsed")
    parts = {f"turn {k + 1}": s.value for k, s in enumerate(found)}
    return replace(found[-1], parts={**found[-1].parts, **parts})


def verdicts(score: Score) -> NDArray[np.float64]:
    """The value of each turn [K]."""
    n = sum(name.startswith("turn ") for name in score.parts)
    return np.array([score.parts[f"turn {k + 1}"] for k in range(n)], dtype=np.float64)
