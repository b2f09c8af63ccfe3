"""Conversations of several attempts: what the user says between them, and when they end. Evaluations have them too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from equipoise.errors import ArgumentError
from equipoise.parts.sources.spans import spans
from equipoise.protocols import Engine, Environment
from equipoise.types import Prompt, Response, Task

Words = Callable[[Prompt], Sequence[int]]  # tokens of the user's turn


def question(prompt: Prompt) -> str:
    """The last thing that the user said."""
    return prompt.text if prompt.text is not None else str(prompt.messages[-1]["content"])


def said_between(task: Task, say: str | None, otherwise: str) -> str:
    """``say``; where it is None, what the task says when it is asked again, or ``otherwise``."""
    if say is None:
        return otherwise if task.again is None else task.again.say
    if not say.strip():
        raise ArgumentError("say is empty: between two attempts the user must say something, for example 'Try again.'")
    return say


def words(engine: Engine, say: str) -> Words:
    """The user's turn ``say`` to a prompt, where {} stands for its question."""
    known: dict[str, Sequence[int]] = {}

    def of(prompt: Prompt) -> Sequence[int]:
        if prompt.id not in known:
            known[prompt.id] = engine.encode_turn(say.replace("{}", question(prompt)))
        return known[prompt.id]

    return of


def longest(task: Task, attempts: int, said: Sequence[int]) -> int:
    """Tokens of the longest conversation of so many attempts with ``said`` between them."""
    return attempts * task.max_new_tokens + (attempts - 1) * len(said)


def longest_evaluated(engine: Engine, task: Task, prompt: Prompt) -> int:
    """Tokens of the longest response that an evaluation can draw: a reply, or a conversation."""
    if task.again is None:
        return task.max_new_tokens
    return longest(task, task.again.attempts, words(engine, task.again.say)(prompt))


def asking_again(
    task: Task,
    attempts: int,
    said: Words,
    done: Callable[[Prompt, Response], bool] = lambda prompt, response: False,
) -> Environment:
    """Asks again after each attempt until there are ``attempts``, one is longer than the task allows, which is
    truncated, or the conversation is ``done``."""

    def reply(prompt: Prompt, response: Response) -> Sequence[int] | None:
        made = spans(response)
        over = len(made) >= attempts or len(made[-1]) > task.max_new_tokens or done(prompt, response)
        return None if over else said(prompt)

    return reply
