"""A question about a context: a sentence that says it, then the short answer.

Ann lives in Rome. Bob lives in Oslo. Where does Bob live?    ->    Bob lives in Oslo => Oslo
"""

from __future__ import annotations

import random

from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Score, Task

PEOPLE = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana")
PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Perth", "Quito", "Delhi", "Minsk")


def task(difficulty: int = 1, train: int = 2000, validation: int = 100, test: int = 300) -> Task:
    """People, each in another place; the answer is in the context and nowhere else.

    difficulty: 1 to 6, one less than there are people. train, validation, test: prompts of these splits, at most."""
    between("facts.difficulty", difficulty, 1, 6)

    def make(rng: random.Random) -> Prompt:
        people, places = rng.sample(PEOPLE, difficulty + 1), rng.sample(PLACES, difficulty + 1)
        context = " ".join(f"{who} lives in {where}." for who, where in zip(people, places, strict=True))
        k = rng.randrange(difficulty + 1)
        return ask(f"{context} Where does {people[k]} live?", places[k], context=context, who=people[k])

    return build(
        "facts",
        "Answer from a context, in a sentence and in a word.",
        make=make,
        verify=verify,
        demonstrate=lambda prompt: f"{prompt.meta['who']} lives in {prompt.answer} => {prompt.answer}",
        max_new_tokens=40,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty},
    )


def verify(prompt: Prompt, text: str) -> Score:
    """The short answer, after the last arrow, must be the place. Whether the sentences before it are the context's is
    the part "faithful", which is seen in the record and no part of the reward."""
    before, arrow, short = text.rpartition("=>")
    found = short.strip().rstrip(".").strip()
    said, known = (sentences(x) for x in (before, str(prompt.meta["context"])))
    return verdict(found == prompt.answer, found if arrow and found else None, faithful=float(set() < said <= known))


def sentences(text: str) -> set[str]:
    return {s.strip() for s in text.split(".")} - {""}
