"""Countdown: reach a number with + - * / and each of the given numbers exactly once.

    Make 22 from 4 9 2.    ->    9*2+4

A reply may end in "= 22". It is parsed, never evaluated as code, and calculated in exact fractions.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Score, Task

OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def task(difficulty: int = 1, train: int = 4000, validation: int = 200, test: int = 500) -> Task:
    """Numbers from 1 to 9 and a target from 1 to 99 that they reach.

    difficulty: 1 to 4, two less than there are numbers. train, validation, test: prompts of these splits, at most."""
    between("countdown.difficulty", difficulty, 1, 4)

    def make(rng: random.Random) -> Prompt:
        numbers = [rng.randint(1, 9) for _ in range(difficulty + 2)]
        target, solution = reach(rng, numbers)
        while not 1 <= target <= 99:
            target, solution = reach(rng, numbers)
        return ask(
            f"Make {target} from {' '.join(map(str, numbers))}.", target, numbers=tuple(numbers), solution=solution
        )

    return build(
        "countdown",
        "Reach a number from given numbers with + - * /.",
        make=make,
        verify=verify,
        demonstrate=lambda prompt: str(prompt.meta["solution"]),
        max_new_tokens=4 * (difficulty + 2) + 8,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty},
    )


def reach(rng: random.Random, numbers: list[int]) -> tuple[int, str]:
    """A random expression over all numbers in which every division is exact: its value and its text."""
    pool: list[tuple[int, ast.expr]] = [(n, ast.Constant(n)) for n in numbers]
    while len(pool) > 1:
        (a, left), (b, right) = (pool.pop(rng.randrange(len(pool))) for _ in "ab")
        kinds = [ast.Add, ast.Sub, ast.Mult, *([ast.Div] if b and a % b == 0 else [])]
        kind = rng.choice(kinds)
        value = a // b if kind is ast.Div else int(OPERATORS[kind](a, b))
        pool.append((value, ast.BinOp(left, kind(), right)))
    value, tree = pool[0]
    return value, ast.unparse(tree).replace(" ", "") if 1 <= value <= 99 else ""


def verify(prompt: Prompt, text: str) -> Score:
    expression = text.partition("=")[0].strip()
    try:
        # The character set keeps names, calls and strings out before the parser sees them.
        if len(expression) > 200 or not re.fullmatch(r"[0-9+\-*/() ]+", expression):
            return verdict(False, None)
        tree = ast.parse(expression, mode="eval").body
        value, used = calculate(tree), sorted(leaves(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return verdict(False, None)
    except ZeroDivisionError:
        return verdict(False, expression.replace(" ", ""), numbers=0.0, value=0.0)
    allowed, reached = used == sorted(prompt.meta["numbers"]), value == prompt.answer
    return verdict(
        allowed and reached, ast.unparse(tree).replace(" ", ""), numbers=float(allowed), value=float(reached)
    )


def calculate(node: ast.expr) -> Fraction:
    """The exact value. Raises ValueError for anything but + - * / of whole numbers."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        value: Fraction = OPERATORS[type(node.op)](calculate(node.left), calculate(node.right))
        return value
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


def leaves(node: ast.expr) -> Iterator[int]:
    return (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is int)
