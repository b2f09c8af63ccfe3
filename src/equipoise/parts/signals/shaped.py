"""Verdicts with other values than 0 and 1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import require
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import FAILED, Group, Prompt, Response, Score, Task

Form = Literal["all", "partial", "discounted"]


def table(
    right: float = 2.0, wrong: float = -1.5, unparsed: float = -2.0, form: float = 1.0, pattern: str = ""
) -> Part:
    """r = +form or -form for the form of the response, plus ``right``, ``wrong`` or ``unparsed``; the latter too where
    the form is broken. The form holds where all of the text matches ``pattern``; "": where an answer can be read.
    Parts "format" and "verified" keep both."""
    if not right > wrong >= unparsed:
        raise ArgumentError(
            f"rewards right={right}, wrong={wrong}, unparsed={unparsed}: expected right > wrong >= unparsed"
        )
    formed = _form(pattern)

    def one(r: Response, s: Score) -> Score:
        if s.status in FAILED:
            return s
        read, kept = s.status != "unparsed" and r.stop != "length", formed(r, s)
        answer = (right if s.status == "right" else wrong) if kept and read else unparsed
        parts = {**s.parts, "verified": s.value, "format": form if kept else -form}
        return replace(s, value=answer + (form if kept else -form), parts=parts)

    def f(group: Group) -> Group:
        return replace(group, scores=tuple(map(one, group.responses, group.scores)))

    name = f"table(right {right:g}, wrong {wrong:g}, unparsed {unparsed:g}; form +-{form:g})"
    return lift(name, f, ["scores"], ["scores"])


def _form(pattern: str) -> Callable[[Response, Score], bool]:
    """Whether a response that ended has the form: all of it matches ``pattern``, or for "" an answer can be read."""
    try:
        shape = re.compile(pattern, re.DOTALL)
    except re.error as e:
        raise ArgumentError(f"pattern {pattern!r} of the reply's form is no regular expression: {e}") from e

    def formed(r: Response, s: Score) -> bool:
        fits = shape.fullmatch(r.text.strip()) is not None if pattern else s.status != "unparsed"
        return fits and r.stop != "length"

    return formed


def add_form(weight: float, pattern: str = "") -> Part:
    """r + ``weight`` where the response has its form (``table`` says when); the part "format" keeps 1 or 0."""
    formed = _form(pattern)

    def one(r: Response, s: Score) -> Score:
        if s.status in FAILED:
            return s
        kept = float(formed(r, s))
        return replace(s, value=s.value + weight * kept, parts={**s.parts, "format": kept})

    def f(group: Group) -> Group:
        return replace(group, scores=tuple(map(one, group.responses, group.scores)))

    return lift(f"add_form({weight:g})", f, ["scores"], ["scores"])


def cosine(
    longest: int, right: tuple[float, float] = (1.0, 0.5), wrong: tuple[float, float] = (0.0, -0.5), weight: float = 1.0
) -> Part:
    """r = weight (b + (a - b)/2 (1 + cos(pi min(l, L)/L))): from a for an empty response to b for one of l >= L tokens;
    (a, b) is ``right`` or ``wrong`` by the verdict, and L is ``longest``. The part "verified" keeps the verdict."""
    if longest < 1:
        raise ArgumentError(f"longest={longest}: the length at which the reward stops changing; expected at least 1")
    if min(right) < max(wrong):
        raise ArgumentError(
            f"rewards right={right}, wrong={wrong} (shortest, longest): expected no right response below a wrong one"
        )

    def one(r: Response, s: Score) -> Score:
        if s.status in FAILED:
            return s
        a, b = right if s.status == "right" else wrong
        near = (1 + math.cos(math.pi * min(len(r.ids), longest) / longest)) / 2
        return replace(s, value=weight * (b + (a - b) * near), parts={**s.parts, "verified": s.value})

    def f(group: Group) -> Group:
        return replace(group, scores=tuple(map(one, group.responses, group.scores)))

    name = f"cosine(right {right[0]:g} to {right[1]:g}, wrong {wrong[0]:g} to {wrong[1]:g}; {longest} tokens)"
    return lift(name if weight == 1 else f"{weight:g} * {name}", f, ["scores"], ["scores"])


def add_sub_answers(task: Task, weight: float, form: Form = "discounted", margin: float = 0.05) -> Part:
    """r_i + m_i for the right steps of a response by the task's check, each wanted step counted once.

    "all": weight where all K are right; "partial": weight x share; "discounted": weight x sum of 1/k over the right
    ones over sum 1/k, and weight/2 more where all are. Only for right responses, and only in steps whose share of right
    responses is above the last step's less ``margin``; that share is the state. 2505.19640."""
    require(task, "a check of steps", task.steps, "credit for sub-answers")
    require(task, "demonstrations", task.demonstrate, "counting sub-answers")
    if form not in ("all", "partial", "discounted"):
        raise ArgumentError(f"form={form!r}: expected 'all', 'partial' or 'discounted'")

    def mid(prompt: Prompt, text: str) -> float:
        assert task.steps is not None and task.demonstrate is not None
        wanted = len(task.steps(prompt, str(task.demonstrate(prompt))))
        ok = np.array([right for _, _, right in task.steps(prompt, text)][:wanted] + [False] * wanted)[:wanted]
        if not wanted or form == "all":
            return weight * bool(wanted and ok.all())
        if form == "partial":
            return weight * float(ok.mean())
        worth = 1 / np.arange(1, wanted + 1)
        return weight * (float(worth[ok].sum() / worth.sum()) + 0.5 * bool(ok.all()))

    def paid(prompt: Prompt, r: Response, s: Score, opened: bool) -> Score:
        more = mid(prompt, r.text) if opened and s.status == "right" else 0.0
        return replace(s, value=s.value + more, parts={**s.parts, "mid": more, "gate": float(opened)})

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        live = [s for g in groups for s in g.scores if s.status not in FAILED]
        if not live:
            return groups, state
        share = sum(s.status == "right" for s in live) / len(live)
        opened = share > (state if state is not None else 0.0) - margin
        return [
            replace(g, scores=tuple(paid(g.prompt, r, s, opened) for r, s in zip(g.responses, g.scores, strict=True)))
            for g in groups
        ], share

    name = f"add_sub_answers({form}, {weight:g})"
    return Part(name, run, frozenset({"scores"}), frozenset({"scores"}))
