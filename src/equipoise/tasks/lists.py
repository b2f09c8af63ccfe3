"""Operations on a short list of numbers; the reply is numbers separated by spaces, or "none".

Sort: 4 9 2 7    ->    2 4 7 9
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from equipoise.errors import UnknownName
from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Score, Task

Numbers = list[int]

OPERATIONS: Mapping[str, tuple[str, Callable[[Numbers], Numbers]]] = {
    "sort": ("Sort", sorted),
    "descending": ("Sort from high to low", lambda xs: sorted(xs, reverse=True)),
    "reverse": ("Reverse", lambda xs: xs[::-1]),
    "max": ("Largest", lambda xs: [max(xs)]),
    "min": ("Smallest", lambda xs: [min(xs)]),
    "sum": ("Sum", lambda xs: [sum(xs)]),
    "count": ("How many", lambda xs: [len(xs)]),
    "unique": ("Remove repeats", lambda xs: list(dict.fromkeys(xs))),
    "even": ("Keep the even", lambda xs: [x for x in xs if x % 2 == 0]),
    "odd": ("Keep the odd", lambda xs: [x for x in xs if x % 2]),
    "rotate": ("Move the first to the end", lambda xs: xs[1:] + xs[:1]),
    "double": ("Double each", lambda xs: [2 * x for x in xs]),
}


def task(
    difficulty: int = 1, operation: str = "any", train: int = 4000, validation: int = 200, test: int = 500
) -> Task:
    """Lists of 3 + 2 * difficulty numbers give or take one; below 10 at difficulty 1, else below 100.

    difficulty: 1 to 6. operation: the only one asked for, such as sort, or any. train, validation, test: prompts of
    these splits, at most."""
    between("lists.difficulty", difficulty, 1, 6)
    if operation != "any" and operation not in OPERATIONS:
        raise UnknownName("operation of task lists", operation, [*OPERATIONS, "any"])
    names = list(OPERATIONS) if operation == "any" else [operation]
    longest = 4 + 2 * difficulty

    def make(rng: random.Random) -> Prompt:
        numbers = [rng.randrange(10 if difficulty == 1 else 100) for _ in range(rng.randint(longest - 2, longest))]
        name = rng.choice(names)
        words, function = OPERATIONS[name]
        return ask(f"{words}: {shown(numbers)}", shown(function(numbers)), operation=name)

    return build(
        "lists",
        "Sort, reverse, filter, count or sum a short list.",
        make=make,
        verify=verify,
        demonstrate=lambda prompt: str(prompt.answer),
        max_new_tokens=(3 if difficulty == 1 else 4) * longest + 2,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty, "operation": operation},
    )


def shown(numbers: Numbers) -> str:
    return " ".join(map(str, numbers)) or "none"


def verify(prompt: Prompt, text: str) -> Score:
    """The whole reply must be a list: numbers between spaces or commas, in brackets or not."""
    plain = " ".join(re.sub(r"[\[\](),]", " ", text).casefold().rstrip(". \n").split())
    listed = plain == "none" or re.fullmatch(r"[0-9]{1,9}( [0-9]{1,9})*", plain)
    found = (plain if plain == "none" else shown([int(x) for x in plain.split()])) if listed else None
    return verdict(found == prompt.answer, found)
