"""In what order prompts are drawn, and what a draw may cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.protocols import Context
from equipoise.types import Cost, Group, Prompt, Task


@lru_cache(maxsize=8)
def _order(key: Key, n: int) -> NDArray[np.int64]:
    return key.permutation(n)


def take(ctx: Context, n: int, size: int, start: int) -> list[int]:
    """``size`` indices below ``n`` (at least 1) from position ``start`` of the endless shuffled order."""
    order = Key(ctx.key.path[:1]) / "order"  # the same for every method of a seed: arms are paired on prompts
    return [int(_order(order / (i // n), n)[i % n]) for i in range(start, start + size)]


def train_split(task: Task) -> Sequence[Prompt]:
    """The prompts to draw from. Raises ArgumentError when there is none."""
    split = task.splits["train"]
    if not len(split):
        have = ", ".join(f"{len(prompts):,} {name}" for name, prompts in task.splits.items())
        raise ArgumentError(
            f"task {task.name!r} has no prompt in its train split ({have}). Add rows, mark rows as train in a 'split' "
            "column, or choose other --task knobs."
        )
    return split


def cost(ctx: Context, group: Group) -> Cost:
    longest = max(len(r.ids) for r in group.responses)
    return ctx.bound(len(group.prompt.ids or ()), len(group.responses), longest, False)
