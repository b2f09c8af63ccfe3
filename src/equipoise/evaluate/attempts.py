"""Evaluation over the attempts of a conversation, for tasks that are asked again (``Task.again``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from equipoise.keys import Key
from equipoise.parts.signals.turns import verdicts_on_turns
from equipoise.parts.signals.verifier import truncated
from equipoise.parts.sources.attempts import asking_again, words
from equipoise.protocols import Engine
from equipoise.types import FAILED, Adjust, Decoder, Group, Prompt, Score, Task


def converse(
    engine: Engine, task: Task, prompts: Sequence[Prompt], n: int, keys: Sequence[Key], adjust: Adjust | None
) -> list[Group]:
    """``n`` conversations to each encoded prompt, judged. A score is that of the last attempt, with a part for each; an
    attempt that was not made (one before it was truncated, or the context full) is wrong. If one verdict fails, the
    conversation has none."""
    assert task.again is not None
    attempts = task.again.attempts
    decoder = Decoder(attempts * task.max_new_tokens, adjust=adjust)
    reply = asking_again(task, attempts, words(engine, task.again.say))
    groups = engine.sample(prompts, n, decoder, keys, reply=reply)
    found = verdicts_on_turns(engine, task, groups)
    return [
        replace(g, scores=tuple(_whole(each, attempts) for each in mine)) for g, mine in zip(groups, found, strict=True)
    ]


def _whole(found: Sequence[Score], attempts: int) -> Score:
    failed = [s for s in found if s.status in FAILED]
    if failed or not found:
        return failed[0] if failed else Score(0.0, "unparsed")
    last = found[-1] if len(found) == attempts else truncated(found[-1])
    right = [float(s.status == "right") for s in found] + [0.0] * (attempts - len(found))
    return replace(last, parts={**last.parts, **{f"turn{k + 1}/right": x for k, x in enumerate(right)}})
