"""What the policy's own answers say about each other, without labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.parts.checks import require
from equipoise.parts.signals.verifier import judge
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group, Score, Task


def semantic_entropy(answers: Sequence[str | None]) -> float:
    """Entropy of the answers' distribution over log of their number: 0 where all agree, 1 where no two do.

    None (no answer) agrees with nothing. A single answer has nothing to agree with: 1."""
    sizes = [1] * answers.count(None) + list(Counter(a for a in answers if a is not None).values())
    n = len(answers)
    if n < 2:
        return 1.0
    if len(sizes) == n:
        return 1.0  # exactly, whatever the logarithms round to
    return -sum(k / n * math.log(k / n) for k in sizes) / math.log(n)


def agreement(task: Task, low: float = 0.0, high: float = 1.0, unparsed: float = 0.0) -> Part:
    """r_i = share of the group's N samples with the canonical answer of sample i (as the verifier reads it; the task's
    own answer plays no part). ``unparsed`` without one, truncated samples among them. 0 for a whole group whose
    ``semantic_entropy`` lies outside [low, high). EMPO, 2504.05812. The score's part "verified" keeps the verdict for
    readers."""
    require(task, "a verifier, which reads canonical answers,", task.verify, "agreement")
    if not 0 <= low < high <= 1:
        raise ArgumentError(f"entropy band [{low:g}, {high:g}): expected 0 <= low < high <= 1")

    def f(group: Group) -> Group:
        live = [s.status not in FAILED for s in group.scores]
        answers = [None if r.stop == "length" else s.answer for r, s in zip(group.responses, group.scores, strict=True)]
        known = [a for a, on in zip(answers, live, strict=True) if on]
        votes, within = Counter(known), low <= semantic_entropy(known) < high

        def value(answer: str | None) -> float:
            if answer is None:
                return unparsed
            return votes[answer] / len(known) if within else 0.0

        scores = [
            replace(s, value=value(a), parts={**s.parts, "verified": s.value}) if on else s
            for s, a, on in zip(group.scores, answers, live, strict=True)
        ]
        return replace(group, scores=tuple(scores))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        judged = judge(task, groups)
        _readable(task, [s for g in judged for s in g.scores])
        return [f(g) for g in judged], state

    name = f"agreement(entropy in [{low:g}, {high:g}))"
    return Part(name, run, needs=frozenset({"responses"}), gives=frozenset({"scores"}))


def _readable(task: Task, scores: Sequence[Score]) -> None:
    """Raises ArgumentError when right verdicts come without answers: then nothing can be compared."""
    right = [s for s in scores if s.status == "right"]
    if right and all(s.answer is None for s in right):
        raise ArgumentError(
            f"agreement compares canonical answers, and the verifier of task {task.name!r} named none in "
            f"{len(right)} right verdicts. Choose a task with one answer a reply (equipoise tasks), or a verifier that "
            "gives it (exact, math-verify)."
        )
