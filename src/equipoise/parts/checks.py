"""What the arguments of parts must satisfy."""

from __future__ import annotations

from equipoise.errors import ArgumentError
from equipoise.types import Task


def positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ArgumentError(f"{name}={size}: expected at least 1")


def require(task: Task, what: str, present: object, who: str) -> None:
    if present is None:
        have = [n for n in ("verify", "demonstrate", "pair") if getattr(task, n) is not None] or ["only prompts"]
        raise ArgumentError(f"{who} needs a task with {what}; {task.name!r} has {', '.join(have)}")
