"""Splits that cannot leak: a prompt's split is a function of its own normalised text.

Two prompts that differ only in case or spacing fall into the same split, whatever the task, its knobs, or the order
in which they were drawn. The fourth share, "pretrain", is what the shipped model `tiny` was trained on; no run
trains or is evaluated on it unless asked by name.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import overload

from equipoise.types import Prompt

SHARES: Mapping[str, float] = {"train": 0.5, "validation": 0.1, "test": 0.1, "pretrain": 0.3}
PATIENCE = 4000  # draws without a new prompt after which a space counts as exhausted


def normalise(text: str) -> str:
    """What is left of a prompt when compatibility forms, case and spacing are ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_of(prompt: Prompt) -> str:
    """All that a prompt says: its text, or the contents of its messages, one a line."""
    return prompt.text if prompt.text is not None else "\n".join(str(m.get("content", "")) for m in prompt.messages)


def hash_of(text: str) -> int:
    """64 bits of the normalised text; the same in every process and on every platform."""
    return int.from_bytes(blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def split_of(word: int, shares: Mapping[str, float] = SHARES) -> str:
    """The split of a prompt whose :func:`hash_of` is ``word``. Shares are laid along [0, 1) in their order."""
    place, edge = word / 2.0**64 * sum(shares.values()), 0.0
    for name, share in shares.items():
        edge += share
        if place < edge:
            return name
    return next(reversed(list(shares)))  # rounding at the far end


@dataclass(frozen=True)
class Drawn(Sequence[Prompt]):
    """Up to ``size`` distinct prompts of one split, drawn from ``make`` when first looked at.

    ``make(rng)`` returns a prompt with any id; its id becomes its hash. The sequence depends only on ``seed`` and
    ``make``. It is shorter than ``size`` only where the space holds no more.
    """

    split: str
    size: int
    make: Callable[[random.Random], Prompt]
    seed: str  # what the draws depend on, e.g. the task's name and knobs
    shares: Mapping[str, float] | None = None  # None: SHARES

    @cached_property
    def items(self) -> list[Prompt]:
        rng = random.Random(f"{self.seed}/{self.split}")
        found: dict[int, Prompt] = {}
        misses = 0
        while len(found) < self.size and misses < PATIENCE:
            prompt = self.make(rng)
            word = hash_of(text_of(prompt))
            if word in found or split_of(word, self.shares or SHARES) != self.split:
                misses += 1
                continue
            found[word] = replace(prompt, id=f"{word:016x}")
            misses = 0
        return list(found.values())

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        return self.items[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.items)


def fingerprint(*parts: object) -> str:
    """A short digest of whatever defines a task's data: name, version, knobs."""
    return blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).hexdigest()
