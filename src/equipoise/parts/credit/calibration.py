"""Scores that make it best to say how sure one is."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from equipoise.errors import ArgumentError
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group, Response, Score

Form = Literal["paper", "code", "none"]


def reward(form: Form, right: float, confidence: float | None) -> float:
    """Of a verdict c in [0, 1] and a stated confidence q in [0, 1] or none.

    paper: c - (q - c)^2, -1 without q. code: (1 + c + 1 - (q - c)^2) / 2, 0 without q. none: c. With P(right) = p the
    expectation of the first is p^2 - (q - p)^2: greatest at q = p, where it rises with p."""
    if form == "none":
        return right
    if confidence is None:
        return -1.0 if form == "paper" else 0.0
    brier = (confidence - right) ** 2
    return right - brier if form == "paper" else 0.5 * (1 + right + 1 - brier)


def add_brier(form: Form = "paper") -> Part:
    """The score with a Brier term on the confidence that the response states (its part "confidence"). RLCR, 2507.16806.

    A truncated response states none. Raises ArgumentError when in the first step no response does."""
    if form not in ("paper", "code", "none"):
        raise ArgumentError(f"form={form!r}: expected 'paper', 'code' or 'none'")

    def score(response: Response, s: Score) -> Score:
        q = None if response.stop == "length" else s.parts.get("confidence")
        return s if s.status in FAILED else replace(s, value=reward(form, s.value, q), parts={**s.parts, "c": s.value})

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        scores = [s for g in groups for s in g.scores]
        if state is None and scores and form != "none" and not any("confidence" in s.parts for s in scores):
            raise ArgumentError(
                f"none of {len(scores)} responses states a confidence, so there is nothing to calibrate. Choose "
                "--task confident:<task>, and teach the form first: --warm 0.2 (demonstrations), or --task.ask with a "
                "sentence that asks for it."
            )
        made = [
            replace(g, scores=tuple(score(r, s) for r, s in zip(g.responses, g.scores, strict=True))) for g in groups
        ]
        return made, True if scores else state

    return Part(f"add_brier({form})", run, needs=frozenset({"scores"}), gives=frozenset({"scores"}))
