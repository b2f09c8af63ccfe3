"""The task's own verifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from equipoise.parts.checks import require
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group, Response, Score, Task


def judge(task: Task, groups: list[Group]) -> list[Group]:
    """The task's verdicts on every response. A truncated response is wrong, here as in evaluation. A failed verdict
    is never a reward of 0: its response loses its trained tokens and leaves the group's statistics."""
    assert task.verify is not None
    asked = [(g.prompt, r) for g in groups for r in g.responses]
    scores = iter(task.verify([p for p, _ in asked], [r.text for _, r in asked]))
    judged = []
    for g in groups:
        mine = [truncated(next(scores)) if r.stop == "length" else next(scores) for r in g.responses]
        responses = [silenced(r) if s.status in FAILED else r for r, s in zip(g.responses, mine, strict=True)]
        judged.append(replace(g, responses=tuple(responses), scores=tuple(mine)))
    return judged


def truncated(score: Score) -> Score:
    """The verdict on a response that was cut off: wrong."""
    status = "wrong" if score.status == "right" else score.status
    return replace(score, value=0.0, status=status, parts=dict.fromkeys(score.parts, 0.0))


def silenced(response: Response) -> Response:
    """Without trained tokens."""
    return replace(response, trained=np.zeros_like(response.trained))


def verified(task: Task) -> Part:
    """The task's own verifier."""
    require(task, "a verifier", task.verify, "a verified reward")

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        return judge(task, groups), state

    return Part("verified", run, needs=frozenset({"responses"}), gives=frozenset({"scores"}))
