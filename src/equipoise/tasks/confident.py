"""Another task whose replies end with how sure they are: ``confident:addition``.

    What is 357+468?    ->    7+8=15, 5+6+1=12, 3+4+1=8: 825 70%

The last thing in a reply is a whole percentage from 0% to 100%, apart from what is before it, in brackets or not. It is
taken off before the task's own verifier reads the reply, and becomes the score's part "confidence" in [0, 1]. A reply
without one (or out of range) is judged as it is and has no such part. Demonstrations state a confidence that says
nothing, drawn from 0%, 10% ... 100%: they teach the form and leave what to say to the method.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.types import Prompt, Reply, Score, Task

STATED = re.compile(r"^(?P<reply>.*?)(?:(?<=\s)|^)\(?(?P<percent>[0-9]{1,3})%\)?\.?\s*$", re.DOTALL)
TOKENS = 6  # that a stated confidence may take


def task(inner: str, ask: str = "", **knobs: Any) -> Task:
    """The task ``inner`` with its knobs.

    ask: a sentence put after each question, for models that follow one."""
    from equipoise import tasks

    if inner.startswith("confident:"):
        raise ArgumentError(f"confident:{inner}: a reply states one confidence; write {inner}")
    base = tasks.load(inner, **knobs)
    if base.verify is None:
        raise ArgumentError(
            f"confident:{inner} needs a task with a verifier; {inner!r} has none. Give --task.verifier."
        )
    judge, show = base.verify, base.demonstrate

    def verify(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        read = [split(text) for text in texts]
        scores = judge(prompts, [reply for reply, _ in read])
        return [_stated(s, q) for s, (_, q) in zip(scores, read, strict=True)]

    def demonstrate(prompt: Prompt) -> Reply | None:
        reply = show(prompt) if show else None
        return f"{reply} {10 * Key(('confident', prompt.id)).integer(11)}%" if isinstance(reply, str) else reply

    return replace(
        base,
        name=f"confident:{inner}",
        summary=f"{base.summary} Each reply ends with a confidence in percent.",
        splits={name: Asked(prompts, ask) for name, prompts in base.splits.items()} if ask else base.splits,
        max_new_tokens=base.max_new_tokens + TOKENS,
        fingerprint=f"confident-1-{base.fingerprint}-{ask}",
        verify=verify,
        demonstrate=demonstrate if show else None,
        pair=None,
    )


def parameters(inner: str) -> Mapping[str, inspect.Parameter]:
    """The knobs of the task within."""
    from equipoise import tasks

    return tasks.signature(inner)


def split(text: str) -> tuple[str, float | None]:
    """The reply without its confidence, and that in [0, 1]; None where none is stated, or one above 100%."""
    found = STATED.match(text)
    if found is None or int(found["percent"]) > 100:
        return text, None
    return found["reply"].rstrip(), int(found["percent"]) / 100


def _stated(score: Score, confidence: float | None) -> Score:
    return score if confidence is None else replace(score, parts={**score.parts, "confidence": confidence})


@dataclass(frozen=True)
class Asked(Sequence[Prompt]):
    """Prompts with a sentence after the last message."""

    prompts: Sequence[Prompt]
    sentence: str

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | Sequence[Prompt]:
        if isinstance(index, slice):
            return [self._with(p) for p in self.prompts[index]]
        return self._with(self.prompts[index])

    def __iter__(self) -> Iterator[Prompt]:
        return (self._with(p) for p in self.prompts)

    def _with(self, prompt: Prompt) -> Prompt:
        if not prompt.messages:
            return replace(prompt, text=f"{prompt.text}\n{self.sentence}")
        *before, last = prompt.messages
        return replace(prompt, messages=(*before, {**last, "content": f"{last['content']}\n{self.sentence}"}))
