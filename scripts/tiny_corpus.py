"""The text that `tiny` is pretrained on: short conversations, all of them synthetic and endless.

Task prompts come only from the "pretrain" split, and so does every other user turn, so that no prompt of any task's
train, validation or test split is ever seen. A stated share of the demonstrations is wrong on purpose: the model
should know the form of every answer and be unsure of its content, as there is nothing to learn from a perfect one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from equipoise import tasks
from equipoise.tasks import countdown, lists
from equipoise.tasks.splits import hash_of, split_of, text_of
from equipoise.types import Prompt, Task

Turn = tuple[str, str]  # what the user says, what the assistant says


@dataclass(frozen=True)
class Share:
    """How often a task is drawn, and how often its demonstration is right."""

    weight: float
    right: float


MIX: dict[tuple[str, int], Share] = {
    ("addition", 1): Share(0.02, 0.9),
    ("addition", 2): Share(0.12, 0.45),
    ("addition", 3): Share(0.16, 0.5),
    ("addition", 4): Share(0.01, 0.3),
    ("lists", 1): Share(0.38, 0.45),
    ("lists", 2): Share(0.06, 0.5),
    ("countdown", 1): Share(0.11, 0.7),
    ("countdown", 2): Share(0.01, 0.5),
    ("knights", 1): Share(0.05, 0.5),
    ("knights", 2): Share(0.01, 0.5),
}
OTHER = 0.07  # weight of plain talk
LONG = 0.05  # share of conversations with several exchanges

ANIMALS = ["cat", "dog", "bird", "fish", "horse", "cow", "fox", "bear", "frog", "mouse"]
THINGS = ["house", "tree", "river", "stone", "boat", "garden", "door", "table", "window", "road"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown", "grey"]
DOES = ["sleeps", "runs", "sings", "waits", "plays", "hides", "jumps", "rests"]
PLACES = ["near", "behind", "under", "beside", "above"]


@cache
def task(name: str, difficulty: int) -> Task:
    return tasks.load(name, difficulty=difficulty)


def conversations(seed: int, noise: float = 1.0) -> Iterator[list[Turn]]:
    """Endless; the same for the same seed. ``noise`` multiplies the share of wrong demonstrations."""
    rng = random.Random(f"tiny/{seed}/{noise}")
    while True:
        exchanges = rng.randint(2, 4) if rng.random() < LONG else 1
        yield [exchange(rng, noise) for _ in range(exchanges)]


def exchange(rng: random.Random, noise: float) -> Turn:
    kinds: list[tuple[str, int] | None] = [*MIX, None]
    kind = rng.choices(kinds, [*(share.weight for share in MIX.values()), OTHER])[0]
    if kind is None:
        return talk(rng)
    chosen = task(*kind)
    prompt = rng.choice(chosen.splits["pretrain"])
    if rng.random() >= noise * (1 - MIX[kind].right):
        return text_of(prompt), str(chosen.demonstrate(prompt)) if chosen.demonstrate else ""
    return text_of(prompt), WRONG[kind[0]](rng, prompt)


def wrong_addition(rng: random.Random, prompt: Prompt) -> str:
    """One slip in one column, carried on as if it were right."""
    a, b = str(prompt.meta["a"])[::-1], str(prompt.meta["b"])[::-1]
    slip = rng.randrange(len(a))
    work, digits, carry = [], "", 0
    for place, (x, y) in enumerate(zip(a, b, strict=True)):
        total = int(x) + int(y) + carry
        if place == slip:
            total = rng.choice([t for t in range(max(total - 3, 0), min(total + 3, 19) + 1) if t != total])
        work.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry, digit = divmod(total, 10)
        digits = str(digit) + digits
    return f"{', '.join(work)}: {carry or ''}{digits}"


def wrong_list(rng: random.Random, prompt: Prompt) -> str:
    """A number changed, left out or said twice, two swapped, or another operation."""
    given = [int(x) for x in text_of(prompt).partition(": ")[2].split()]
    right = [int(x) for x in str(prompt.answer).split()] if prompt.answer != "none" else []
    answer, way = list(right), rng.randrange(5)
    if way == 0 or not right:
        answer = rng.choice(list(lists.OPERATIONS.values()))[1](given)
    elif way == 1:
        answer[rng.randrange(len(answer))] = rng.randrange(max(given) + 2)
    elif way == 2:
        answer.pop(rng.randrange(len(answer)))
    elif way == 3:
        answer.insert(rng.randrange(len(answer)), rng.choice(given))
    else:
        i, j = rng.randrange(len(answer)), rng.randrange(len(answer))
        answer[i], answer[j] = answer[j], answer[i]
    return lists.shown(answer)


def wrong_countdown(rng: random.Random, prompt: Prompt) -> str:
    """Another number reached from the same ones."""
    text = ""
    while not text:
        text = countdown.reach(rng, list(prompt.meta["numbers"]))[1]
    return text


def wrong_knights(rng: random.Random, prompt: Prompt) -> str:
    return " ".join(f"{who}={rng.choice(('knight', 'knave'))}" for who in prompt.meta["people"])


WRONG: dict[str, Callable[[random.Random, Prompt], str]] = {
    "addition": wrong_addition,
    "lists": wrong_list,
    "countdown": wrong_countdown,
    "knights": wrong_knights,
}


def talk(rng: random.Random) -> Turn:
    """Copying, spelling, counting, comparing, greetings and simple sentences, from the pretrain split too."""
    while True:
        turn = rng.choice(TALK)(rng)
        if split_of(hash_of(turn[0])) == "pretrain":
            return turn


def copying(rng: random.Random) -> Turn:
    words = " ".join(rng.choices([*ANIMALS, *THINGS, *COLOURS], k=rng.randint(1, 4)))
    return f"Repeat: {words}", words


def spelling(rng: random.Random) -> Turn:
    word = rng.choice([*ANIMALS, *THINGS, *COLOURS, *DOES])
    return f"Spell {word}.", " ".join(word)


def counting(rng: random.Random) -> Turn:
    first = rng.randrange(90)
    last = first + rng.randint(2, 9)
    return f"Count from {first} to {last}.", " ".join(map(str, range(first, last + 1)))


def comparing(rng: random.Random) -> Turn:
    a, b = rng.sample(range(1000), 2)
    return f"Is {a} more than {b}?", "Yes." if a > b else "No."


def sentence(rng: random.Random) -> Turn:
    who, where = rng.choice(ANIMALS), rng.choice(THINGS)
    said = f"The {rng.choice(COLOURS)} {who} {rng.choice(DOES)} {rng.choice(PLACES)} the {rng.choice(COLOURS)} {where}."
    return rng.choice([f"Write about a {who} and a {where}.", f"Tell me of a {where} and a {who}."]), said


def greeting(rng: random.Random) -> Turn:
    name = rng.choice(["", " there", " tiny", " friend"])
    mark = rng.choice(["", "!", "."])
    return f"{rng.choice(['Hello', 'Hi', 'Good morning', 'Good evening'])}{name}{mark}", rng.choice(
        ["Hello! I add numbers and sort lists.", "Hello! Ask me to add two numbers.", "Hello! I am a very small model."]
    )


TALK: tuple[Callable[[random.Random], Turn], ...] = (copying, spelling, counting, comparing, sentence, greeting)
