"""How near a reply comes to the right one, word by word."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from equipoise.protocols import Part, lift
from equipoise.types import FAILED, Group, Score


def overlap(found: str, wanted: str) -> float:
    """F1 of words as multisets, case ignored; 0 where either has none."""
    a, b = (Counter(re.findall(r"\w+", text.casefold())) for text in (found, wanted))
    return 2 * (a & b).total() / (a.total() + b.total()) if a and b else 0.0


def add_overlap(words: float, form: float) -> Part:
    """r + ``words`` x overlap of the answer that was read with the prompt's + ``form`` where one was read."""

    def one(answer: object, s: Score) -> Score:
        if s.status in FAILED:
            return s
        near = overlap(s.answer or "", str(answer)) if answer is not None else 0.0
        read = float(s.answer is not None)
        return replace(s, value=s.value + words * near + form * read, parts={**s.parts, "words": near, "form": read})

    def f(group: Group) -> Group:
        return replace(group, scores=tuple(one(group.prompt.answer, s) for s in group.scores))

    return lift(f"add_overlap({words:g} words, {form:g} form)", f, ["scores"], ["scores"])
