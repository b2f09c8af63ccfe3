"""Knights and knaves: knights say only true things, knaves only false ones. Every puzzle has one solution.

Knights tell the truth, knaves lie. K says M is a knave. M says K and M differ.    ->    K=knave M=knight
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections.abc import Callable, Mapping

from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Score, Task

# What a person may say of x and y, and when it is true (True: knight).
CLAIMS: Mapping[str, Callable[[bool, bool], bool]] = {
    "{x} is a knight": lambda x, y: x,
    "{x} is a knave": lambda x, y: not x,
    "{x} and {y} are alike": lambda x, y: x == y,
    "{x} and {y} differ": lambda x, y: x != y,
    "{x} and {y} are knights": lambda x, y: x and y,
    "{x} or {y} is a knave": lambda x, y: not (x and y),
}
Said = tuple[str, str, str, str]  # speaker, claim, x, y


def task(difficulty: int = 1, least: int = 0, train: int = 4000, validation: int = 200, test: int = 500) -> Task:
    """People, named by letters; each says one thing.

    difficulty: 1 to 4, one less than there are people. least: puzzles of every difficulty from this one up to
    --task.difficulty, evenly; 0: of that one alone. train, validation, test: prompts of these splits, at most."""
    between("knights.difficulty", difficulty, 1, 4)
    between("knights.least", least, 0, difficulty)

    def make(rng: random.Random) -> Prompt:
        while True:
            size = 1 + (rng.randint(least, difficulty) if least else difficulty)
            people = sorted(rng.sample(string.ascii_uppercase, size))
            said = [_claim(rng, speaker, people) for speaker in people]
            answers = solutions(people, said)
            if len(answers) == 1:
                spoken = " ".join(f"{who} says {claim.format(x=x, y=y)}." for who, claim, x, y in said)
                return ask(f"Knights tell the truth, knaves lie. {spoken}", shown(answers[0]), people=tuple(people))

    return build(
        "knights",
        "Find who tells the truth from what each person says.",
        make=make,
        verify=verify,
        demonstrate=lambda prompt: str(prompt.answer),
        max_new_tokens=8 * (difficulty + 1) + 2,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty} | ({"least": least} if least else {}),
    )


def _claim(rng: random.Random, speaker: str, people: list[str]) -> Said:
    claim = rng.choice(list(CLAIMS))
    others = people if "{y}" in claim else [p for p in people if p != speaker]
    x, y = rng.sample(others, 2) if "{y}" in claim else (rng.choice(others), speaker)
    return speaker, claim, x, y


def solutions(people: list[str], said: list[Said]) -> list[dict[str, bool]]:
    """Every assignment under which exactly the knights speak the truth, by enumeration."""
    worlds = (dict(zip(people, kinds, strict=True)) for kinds in itertools.product((True, False), repeat=len(people)))
    return [w for w in worlds if all(CLAIMS[claim](w[x], w[y]) == w[who] for who, claim, x, y in said)]


def shown(world: Mapping[str, bool]) -> str:
    return " ".join(f"{who}={'knight' if world[who] else 'knave'}" for who in sorted(world))


def verify(prompt: Prompt, text: str) -> Score:
    """Each person exactly once, as ``A=knight`` or ``A is a knight``."""
    pairs = re.findall(r"\b([A-Z])\s*(?:=|:|is an?)\s*(knight|knave)\b", text)
    told = {who: kind == "knight" for who, kind in pairs}
    people = set(prompt.meta["people"])
    if set(told) != people or len(pairs) != len(people):
        return verdict(False, None)
    return verdict(shown(told) == prompt.answer, shown(told))
