"""What of a file a model can read: rows beyond its context are refused, dropped, or their prompts shortened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from equipoise.errors import ArgumentError, DataError, TooLong
from equipoise.protocols import Engine
from equipoise.tasks.file.splits import FileSplit
from equipoise.tasks.progress import watched
from equipoise.types import Prompt, Task


def one_of(knob: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ArgumentError(f"--task.{knob} {value!r}: expected one of {', '.join(allowed)}")


def fit(task: Task, engine: Engine, long: str = "refuse") -> Task:
    """``task`` with what ``engine`` can read: prompt and longest reply (sampled ones: ``max_new_tokens``) together.

    Over-long rows are refused with their count ("refuse"), left out ("drop"), or their prompts are shortened from the
    beginning ("truncate": oldest turns first, the system turn stays). A reply is never cut: it would teach the model
    to end in mid-sentence. Raises DataError.
    """
    one_of("long", long, ("refuse", "drop", "truncate"))
    long_rows = {name: _too_long(task, engine, split) for name, split in task.splits.items()}
    count = sum(map(len, long_rows.values()))
    if not count:
        return task
    if long == "refuse":
        raise DataError(_refusal(task, engine, long_rows, "", "--task.long drop, or truncate (shortens prompts)"))
    if long == "drop":
        splits = {name: _without(split, long_rows[name]) for name, split in task.splits.items()}
        if empty := [name for name, split in splits.items() if not len(split)]:
            raise DataError(
                _refusal(task, engine, long_rows, f" and none is left for {', '.join(empty)}", "a longer context")
            )
        return replace(task, splits=splits, summary=f"{task.summary}; {count:,} over-long rows dropped")
    hopeless = {
        n: [r for r in rows if not _room(task, engine, _prompt_of(task, n, r))] for n, rows in long_rows.items()
    }
    if any(hopeless.values()):
        what = " even with their prompts cut to nothing, and replies are never cut"
        raise DataError(_refusal(task, engine, hopeless, what, "--task.long drop, or shorten these replies"))
    change = partial(_shortened, task, engine)
    splits = {n: _changed(split, long_rows[n], change) for n, split in task.splits.items()}
    return replace(task, splits=splits, summary=f"{task.summary}; {count:,} over-long prompts shortened")


def _too_long(task: Task, engine: Engine, split: Sequence[Prompt]) -> list[int]:
    """Rows of a split that do not fit. Only rows with enough bytes are tokenised: a token is at least one byte."""
    if not isinstance(split, FileSplit) or not len(split):
        return []
    probe = split[0]
    short = replace(probe, messages=({"role": "user", "content": "x"},)) if probe.messages else replace(probe, text="x")
    around = len(engine.encode(short).ids or ()) + 8  # what a template adds to the words
    after = task.max_new_tokens if task.verify else 0
    sizes = split.source.rows.sizes()[split.places]
    suspects = split.places[sizes + around + after > engine.info.context]
    looked_at = watched(suspects, f"measuring long rows of {split.source.rows.path.name}", len(suspects))
    return [int(r) for r in looked_at if not _fits(task, engine, split.source.prompt(int(r)))]


def _fits(task: Task, engine: Engine, prompt: Prompt) -> bool:
    try:
        encoded = engine.encode(prompt)
        return len(encoded.ids or ()) + _longest(task, engine, encoded) <= engine.info.context
    except TooLong:
        return False


def _longest(task: Task, engine: Engine, encoded: Prompt) -> int:
    """Tokens of the longest reply to a prompt. Raises TooLong."""
    given = [
        task.demonstrate(encoded) if task.demonstrate else None,
        *((task.pair(encoded) or ()) if task.pair else ()),
    ]
    sizes = [len(engine.encode_reply(encoded, r, "demonstration").ids) for r in given if r is not None]
    return max([*sizes, task.max_new_tokens if task.verify else 0])


def _room(task: Task, engine: Engine, prompt: Prompt) -> int:
    """Tokens that a prompt may have beside its longest reply; 0 if not even a prompt of one letter fits."""
    least = _kept(prompt, 1, 1)
    if least is None or not _fits(task, engine, least):
        return 0
    return engine.info.context - _longest(task, engine, engine.encode(least))


def _shortened(task: Task, engine: Engine, prompt: Prompt) -> Prompt:
    """The longest end of a prompt that fits: as many of its last turns as possible, else the end of its last turn."""
    room = _room(task, engine, prompt)

    def fits(candidate: Prompt | None) -> bool:
        try:
            return candidate is not None and len(engine.encode(candidate).ids or ()) <= room
        except TooLong:
            return False

    turns = sum(m["role"] != "system" for m in prompt.messages)
    for last in range(turns - 1, 0, -1):
        if fits(whole := _kept(prompt, last, None)):
            assert whole is not None
            return whole
    low, high = 1, len(str(prompt.text or prompt.messages[-1]["content"]))
    while low < high:  # the most characters that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(_kept(prompt, 1, middle)) else (low, middle - 1)
    return _kept(prompt, 1, low) or prompt


def _kept(prompt: Prompt, last: int, characters: int | None) -> Prompt | None:
    """System turns, the ``last`` other turns, and of the very last one the last ``characters``; None if it has none."""
    if prompt.text is not None:
        return replace(prompt, text=prompt.text[-(characters or 0) :])
    system = [m for m in prompt.messages if m["role"] == "system"]
    others = [m for m in prompt.messages if m["role"] != "system"][-last:]
    if characters is not None:
        if not isinstance(others[-1]["content"], str):
            return None
        others[-1] = {**others[-1], "content": others[-1]["content"][-characters:]}
    return replace(prompt, messages=(*system, *others))


def _prompt_of(task: Task, name: str, row: int) -> Prompt:
    split = task.splits[name]
    assert isinstance(split, FileSplit)
    return split.source.prompt(row)


def _without(split: Sequence[Prompt], rows: list[int]) -> Sequence[Prompt]:
    return replace(split, places=split.places[~np.isin(split.places, rows)]) if isinstance(split, FileSplit) else split


def _changed(split: Sequence[Prompt], rows: list[int], change: Callable[[Prompt], Prompt]) -> Sequence[Prompt]:
    return replace(split, changed=frozenset(rows), change=change) if isinstance(split, FileSplit) else split


def _refusal(task: Task, engine: Engine, rows: Mapping[str, list[int]], what: str, fix: str) -> str:
    """The message about over-long rows."""
    places = [f"{_prompt_of(task, name, r).id}" for name, some in rows.items() for r in some[:3]]
    count, total = sum(map(len, rows.values())), sum(map(len, task.splits.values()))
    reply = f"replies of up to {task.max_new_tokens} tokens" if task.verify else "their replies"
    return (
        f"{task.name}: {count:,} of {total:,} rows do not fit: prompts with {reply} are longer than the "
        f"{engine.info.context:,} tokens that {engine.info.name} reads{what}. First ones: {', '.join(places[:3])}.\n"
        f"fix: {fix}"
    )
