"""A task's training prompts by how hard they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from equipoise.parts.sources.draws import train_split
from equipoise.types import Prompt, Task


def by_level(task: Task, column: str) -> Mapping[str, Task]:
    """The task once for each level of its training prompts, easy first: by the column's number, or its length where it
    is a list. One level, "all", where no prompt has the column; prompts without it are left out if others have it."""
    levels: dict[float, list[Prompt]] = {}
    for prompt in train_split(task):
        if (level := _level(prompt.meta.get(column))) is not None:
            levels.setdefault(level, []).append(prompt)
    if not levels:
        return {"all": task}
    return {
        f"{column} {level:g}": replace(task, splits={**task.splits, "train": levels[level]}) for level in sorted(levels)
    }


def _level(value: object) -> float | None:
    if isinstance(value, (list, tuple)):
        return float(len(value))
    return float(value) if isinstance(value, (int, float)) else None
