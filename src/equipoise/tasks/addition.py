"""Addition with scratch work: digit by digit from the right, each carry written out, then the answer.

    What is 357+468?    ->    7+8=15, 5+6+1=12, 3+4+1=8: 825

The verifier reads the last number of a reply, so any way of working is allowed.
"""

from __future__ import annotations

import random
import re

from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Score, Task


def task(difficulty: int = 3, train: int = 4000, validation: int = 200, test: int = 500) -> Task:
    """Two numbers to add; of one digit each there are only 100 questions.

    difficulty: digits of either number, 1 to 12. train, validation, test: prompts of these splits, at most."""
    between("addition.difficulty", difficulty, 1, 12)
    low, high = (0 if difficulty == 1 else 10 ** (difficulty - 1)), 10**difficulty

    def make(rng: random.Random) -> Prompt:
        a, b = rng.randrange(low, high), rng.randrange(low, high)
        return ask(f"What is {a}+{b}?", a + b, a=a, b=b)

    return build(
        "addition",
        "Add two numbers digit by digit, with scratch work.",
        make=make,
        verify=verify,
        demonstrate=demonstrate,
        max_new_tokens=10 * difficulty + 6,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty},
        steps=steps,
    )


def demonstrate(prompt: Prompt) -> str:
    a, b = str(prompt.meta["a"]), str(prompt.meta["b"])
    work, carry = [], 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        total = int(x) + int(y) + carry
        work.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return f"{', '.join(work)}: {prompt.answer}"


def steps(prompt: Prompt, text: str) -> list[tuple[int, int, bool]]:
    """A column of the scratch work is right where it is the demonstration's, carry included: after an error only
    columns that no longer depend on it are. The answer is the last step."""
    wanted = re.split(r", |: ", demonstrate(prompt))
    said = [m.span() for m in re.finditer(r"[^,:\s]+", text)]
    return [(a, b, k < len(wanted) and text[a:b] == wanted[k]) for k, (a, b) in enumerate(said)]


def verify(prompt: Prompt, text: str) -> Score:
    numbers = re.findall(r"[0-9]+", text.replace(",", " "))
    found = numbers[-1].lstrip("0") or "0" if numbers else None
    # seen in the record, not part of the reward: the whole reply, and the work whatever answer follows
    said, wanted = text.strip(), demonstrate(prompt)
    work = said.partition(":")[:2] == wanted.partition(":")[:2]
    return verdict(found == str(prompt.answer), found, scratch=float(said == wanted), work=float(work))
