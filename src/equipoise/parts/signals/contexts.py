"""Whether a long answer can stand for the context that it was made from."""

from __future__ import annotations

from dataclasses import replace

from equipoise.errors import ArgumentError, DataError
from equipoise.parts.signals.continuations import Rewrite
from equipoise.protocols import Part, lift
from equipoise.types import FAILED, Group, Prompt, Response, Score, Status


def long_answer(text: str, separator: str) -> str:
    """What comes before the last ``separator``, or all of it where that is empty; "" where it is missing."""
    return (text.rpartition(separator)[0] if separator else text).strip()


def replaced(column: str, separator: str) -> Rewrite:
    """The prompt with the response's long answer, taken literally, in place of its context, the column ``column``.
    Raises DataError where the prompt does not hold it."""

    def put(content: str, prompt: Prompt, text: str) -> str:
        context = prompt.meta.get(column)
        if not isinstance(context, str) or not context or context not in content:
            raise DataError(f"prompt {prompt.id!r}: expected a column {column!r} with a text that the prompt contains")
        before, _, after = content.rpartition(context)
        return before + long_answer(text, separator) + after

    def rewrite(prompt: Prompt, text: str) -> Prompt:
        if prompt.text is not None:
            return replace(prompt, text=put(prompt.text, prompt, text), ids=None)
        *others, last = prompt.messages
        return replace(prompt, messages=(*others, {**last, "content": put(last["content"], prompt, text)}), ids=None)

    return rewrite


def add_form_and_length(column: str, separator: str, low: float = 0.2, high: float = 0.8) -> Part:
    """r = verdict + verdict of the pass on the rewritten context + 1 for the form + 1 for a long answer between ``low``
    and ``high`` of the context's characters. Without a long answer only the verdict and nothing else counts."""
    if not 0 <= low <= high:
        raise ArgumentError(
            f"low={low:g}, high={high:g}: the band of the long answer's length; expected 0 <= low <= high"
        )

    def one(prompt: Prompt, r: Response, s: Score) -> Score:
        if s.status in FAILED:
            return s
        itself, again, long = s.parts["itself"], s.value, long_answer(r.text, separator)
        share = len(long) / max(len(str(prompt.meta.get(column, ""))), 1)
        form = bool(long) and r.stop != "length"
        extra = {"influence": again * form, "form": float(form), "length": float(form and low <= share <= high)}
        status: Status = "right" if itself > 0 else "wrong"
        return replace(s, value=itself + sum(extra.values()), status=status, parts={**s.parts, **extra})

    def f(group: Group) -> Group:
        scored = zip(group.responses, group.scores, strict=True)
        return replace(group, scores=tuple(one(group.prompt, r, s) for r, s in scored))

    return lift(f"add_form_and_length({low:g} to {high:g})", f, ["scores"], ["scores"])
