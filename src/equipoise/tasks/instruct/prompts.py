"""Requests about a topic, with constraints in words."""

from __future__ import annotations

import random
import re
from itertools import combinations
from typing import Any

from equipoise.tasks.instruct.constraints import KINDS, compatible
from equipoise.tasks.instruct.words import REQUESTS, Vocabulary
from equipoise.types import Prompt


def draw(words: Vocabulary, count: int, rng: random.Random) -> Prompt:
    """A request about one topic with ``count`` constraints that go together, in any order."""
    kinds, weights = list(KINDS), [k.weight for k in KINDS.values()]
    names: list[str] = []
    while len(names) < count or not all(compatible(a, b) for a, b in combinations(names, 2)):
        names = rng.choices(kinds, weights, k=count)
    topic = rng.choice(words.topics)
    constraints = [{"kind": name, "value": KINDS[name].draw(rng, words)} for name in names]
    asked = [rng.choice(REQUESTS).format(topic)]
    asked += [_say(rng.choice(KINDS[c["kind"]].phrasings), c["value"]) for c in constraints]
    text = " ".join(asked)
    meta = {"topic": topic, "constraints": constraints, "request": asked[0]}
    return Prompt(id="", messages=({"role": "user", "content": text},), meta=meta)


_NUMBERS = ("zero", "one", "two", "three", "four", "five")


def _say(phrasing: str, value: Any) -> str:
    if isinstance(value, int) and value < len(_NUMBERS):
        text = phrasing.format(_NUMBERS[value])
        return re.sub(r"\bone ((?:short )?sentence)s", r"one \1", text)
    return phrasing.format(*value) if isinstance(value, list) else phrasing.format(value)
