"""What the tasks drawn from a generator share: their splits, their verdicts and the check of their knobs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from equipoise.errors import ArgumentError
from equipoise.tasks.splits import Drawn, fingerprint
from equipoise.types import Prompt, Score, Task

PRETRAIN = 20_000  # prompts of the split that only scripts/pretrain_tiny.py reads


def build(
    name: str,
    summary: str,
    *,
    make: Callable[[random.Random], Prompt],
    verify: Callable[[Prompt, str], Score],
    demonstrate: Callable[[Prompt], str],
    max_new_tokens: int,
    sizes: Mapping[str, int],
    knobs: Mapping[str, object],
    steps: Callable[[Prompt, str], Sequence[tuple[int, int, bool]]] | None = None,
) -> Task:
    """A task from a generator of prompts, a verifier of one reply and a writer of right ones."""
    for split, size in sizes.items():
        between(f"{name}.{split}", size, 1, 10_000_000)
    seed = fingerprint(name, sorted(knobs.items()))

    def verdicts(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        return [verify(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    return Task(
        name=name,
        summary=summary,
        splits={split: Drawn(split, size, make, seed) for split, size in {**sizes, "pretrain": PRETRAIN}.items()},
        max_new_tokens=max_new_tokens,
        fingerprint=fingerprint(name, 1, sorted(knobs.items()), sorted(sizes.items())),
        verify=verdicts,
        demonstrate=demonstrate,
        steps=steps,
    )


def ask(text: str, answer: object, **meta: object) -> Prompt:
    """One question of a user; its id is given when it is placed in a split."""
    return Prompt(id="", messages=({"role": "user", "content": text},), answer=answer, meta=meta)


def verdict(right: bool, answer: str | None, **parts: float) -> Score:
    """1 for a right answer, else 0. ``answer`` None: nothing could be read from the reply."""
    if answer is None:
        return Score(0.0, "unparsed", parts=parts)
    return Score(float(right), "right" if right else "wrong", parts=parts, answer=answer)


def between(knob: str, value: int, low: int, high: int) -> None:
    """Raises ArgumentError unless ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        flag = knob.split(".")[-1].replace("_", "-")
        raise ArgumentError(f"--task.{flag} {value!r}: expected an integer from {low} to {high} ({knob})")
