"""Another task, asked again after each reply: ``again:lists``.

    Sum: 4 7 2    ->    12    There may be an error. Sum: 4 7 2    ->    13

Prompts, demonstrations and verifier are those of the task within, and a method that knows nothing of conversations
learns from it as from that task. Evaluations go on after the first reply: every attempt is judged alone, and the
verdict on a response is that on its last attempt. docs/tasks-and-data.md has the metrics of single attempts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from equipoise.errors import ArgumentError
from equipoise.tasks.procedural import between
from equipoise.types import Again, Task


def task(inner: str, attempts: int = 2, say: str = "{}", **knobs: Any) -> Task:
    """The task ``inner`` with its knobs.

    attempts: replies in a conversation, the first one counted. say: the user's words between two of them, where {}
    stands for the question."""
    from equipoise import tasks

    if inner.startswith("again:"):
        raise ArgumentError(f"again:{inner}: write {inner}, and --task.attempts for more than two attempts")
    between("again.attempts", attempts, 2, 100)
    if not say.strip():
        raise ArgumentError("again.say is empty: between two attempts the user must say something, for example '{}'")
    base = tasks.load(inner, **knobs)
    if base.verify is None:
        raise ArgumentError(f"again:{inner} needs a task with a verifier; {inner!r} has none. Give --task.verifier.")
    return replace(
        base,
        name=f"again:{inner}",
        summary=f"{base.summary} Asked again after each reply, {attempts} attempts in all.",
        fingerprint=f"again-1-{base.fingerprint}-{attempts}-{say}",
        again=Again(say, attempts),
    )


def parameters(inner: str) -> Mapping[str, inspect.Parameter]:
    """The knobs of the task within."""
    from equipoise import tasks

    return tasks.signature(inner)
