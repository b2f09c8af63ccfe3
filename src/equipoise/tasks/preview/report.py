"""Reading a file as ``file:`` would, tokenising its rows, and counting what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

import numpy as np

from equipoise.errors import TooLong, UnknownName
from equipoise.protocols import Engine
from equipoise.tasks.file import SPLITS, FileSplit, Need, repeated, source_of, unjudged
from equipoise.tasks.formats import Columns
from equipoise.types import Prompt, Reply, Response, Task

CHECKED = 1000  # rows tokenised, evenly spread; the report says how many of how many
SHOWN = 3  # rows shown token by token
QUANTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind; special tokens stand alone."""

    text: str
    trained: bool
    special: bool
    tokens: int


@dataclass
class Report:
    """Counts over the ``checked`` rows; duplicates over all. ``lengths``: tokens at QUANTILES."""

    path: str
    form: str
    rows: int
    splits: dict[str, int]
    columns: list[str]
    model: str
    context: int
    chat: bool  # prompts go through the model's chat template
    checked: int = 0
    lengths: dict[str, list[int]] = field(default_factory=dict)
    too_long: int = 0
    without_loss: int = 0
    without_end: int = 0
    double_start: int = 0
    control: int = 0
    replies: int = 0
    duplicates: int = 0
    repeated_prompts: int = 0
    shared: dict[str, int] = field(default_factory=dict)  # "train and test" -> prompts in both
    examples: list[tuple[str, list[Span]]] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What needs attention, each with its fix."""
        counted = (
            (self.too_long, f"rows longer than the {self.context:,} tokens that {self.model} reads",
             "--task.long drop or truncate"),
            (self.without_loss, "replies without a trained token", "check the chat template and the roles"),
            (self.without_end, "replies whose last trained token is no end token: the model would not learn to stop",
             "correct eos_token or the chat template"),
            (self.double_start, "rows that begin with the same special token twice",
             "leave the token out of the data or of the template"),
            (self.duplicates, "rows that repeat an earlier one", "--task.duplicates drop or keep"),
            *((n, f"prompts shared by {where}", "--task.duplicates drop") for where, n in self.shared.items()),
            (self.control, "rows with control characters", "look at them: they are often a sign of a broken export"),
        )  # fmt: skip
        return [f"{count:,} {what}; {fix}" for count, what, fix in counted if count]


def inspect(path: str, engine: Engine, test: str | None = None, **columns: Any) -> Report:
    """Read ``path`` as the task ``file:<path>`` and tokenise its rows. ``columns``: names of columns, and ``chat``.

    Raises DataError for faults, as the task does; duplicates are counted instead of refused.
    """
    try:
        names = Columns(**columns)
    except TypeError:
        unknown = sorted(set(columns) - {f.name for f in fields(Columns)})
        raise UnknownName("knob of data check", unknown[0], [f.name for f in fields(Columns)]) from None
    task = unjudged(path, names, Need(), test, "keep", max_new_tokens=1)
    source = source_of(task)
    report = Report(
        path=path,
        form=source.form,
        rows=sum(map(len, task.splits.values())),
        splits={name: len(split) for name, split in task.splits.items()},
        columns=source.columns,
        model=engine.info.name,
        context=engine.info.context,
        chat=bool(task.splits["train"][0].messages),
    )
    _compare(report, task)
    lengths: dict[str, list[int]] = {"prompt": [], "reply": [], "together": []}
    for split in task.splits.values():
        for prompt in _spread(split, CHECKED * len(split) // report.rows + 1):
            _look(report, task, prompt, engine, lengths)
            report.checked += 1
    report.lengths = {
        name: [int(q) for q in np.percentile(found, QUANTILES, method="inverted_cdf")]
        for name, found in lengths.items()
        if found
    }
    return report


def _compare(report: Report, task: Task) -> None:
    """Repetitions within the file, and prompts that two splits share."""
    splits = [s for s in task.splits.values() if isinstance(s, FileSplit)]
    sources = {id(s.source): s.source for s in splits}.values()
    report.duplicates = sum(len(repeated(s.whole)) for s in sources)
    report.repeated_prompts = sum(len(repeated(s.words)) for s in sources)
    words = {n: s.source.words[s.places] for n, s in task.splits.items() if isinstance(s, FileSplit)}
    for a, b in ((a, b) for i, a in enumerate(SPLITS) for b in SPLITS[i + 1 :]):
        if count := len(np.intersect1d(words[a], words[b])):
            report.shared[f"{a} and {b}"] = count


def _spread(split: Sequence[Prompt], most: int) -> Iterator[Prompt]:
    step = max(1, -(-len(split) // most))
    return (split[i] for i in range(0, len(split), step))


def _look(report: Report, task: Task, prompt: Prompt, engine: Engine, lengths: dict[str, list[int]]) -> None:
    """Tokenise one row and count what is wrong with it."""
    replies = _replies(task, prompt)
    report.control += any(_control(text) for text in _texts(prompt, replies))
    try:
        encoded = engine.encode(prompt)
        responses = [engine.encode_reply(encoded, reply, "demonstration") for reply in replies]
    except TooLong:
        report.too_long += 1
        return
    ids = list(encoded.ids or ())
    lengths["prompt"].append(len(ids))
    report.replies += len(responses)
    for response in responses:
        lengths["reply"].append(len(response.ids))
        lengths["together"].append(len(ids) + len(response.ids))
        trained = response.ids[response.trained]
        report.without_loss += not len(trained)
        report.without_end += bool(len(trained)) and int(trained[-1]) not in engine.info.eos
    report.double_start += len(ids) > 1 and ids[0] == ids[1] and not engine.decode(ids[:1])
    if len(report.examples) < SHOWN:
        report.examples.append((prompt.id, list(_spans(ids, responses[:1], engine))))


def _replies(task: Task, prompt: Prompt) -> list[Reply]:
    given = [task.demonstrate(prompt) if task.demonstrate else None]
    given += (task.pair(prompt) or ()) if task.pair else ()
    if not given[0] and "completion" in prompt.meta:  # a labelled row's reply
        given.append(prompt.meta["completion"])
    return [reply for reply in given if reply is not None]


def _texts(prompt: Prompt, replies: Sequence[Reply]) -> Iterator[str]:
    yield prompt.text or ""
    for turns in (prompt.messages, *(r for r in replies if not isinstance(r, str))):
        yield from (str(turn.get("content")) for turn in turns)
    yield from (r for r in replies if isinstance(r, str))


def _spans(prompt: Sequence[int], responses: Sequence[Response], engine: Engine) -> Iterator[Span]:
    """A row as runs of tokens that are alike: trained or not; a special token is a run of its own."""
    ids = [*prompt, *(int(i) for r in responses for i in r.ids)]
    trained = [*[False] * len(prompt), *(bool(t) for r in responses for t in r.trained)]
    special = [not engine.decode([i]) for i in ids]
    place = {True: iter(range(len(ids))), False: iter([0] * len(ids))}
    keyed = [(t, s, next(place[s])) for t, s in zip(trained, special, strict=True)]
    at = 0
    for (is_trained, is_special, _), run in groupby(keyed):
        size = len(list(run))
        part = ids[at : at + size]
        yield Span(_token(part[0], engine) if is_special else engine.decode(part), is_trained, is_special, size)
        at += size


def _token(id: int, engine: Engine) -> str:
    """A special token's name, as the engine's tokenizer writes it, or its number."""
    tokenizer = getattr(engine, "tokenizer", None)
    return str(tokenizer.convert_ids_to_tokens(id)) if tokenizer is not None else f"<{id}>"


def _control(text: str) -> bool:
    return any((c < " " and c not in "\n\t\r") or "\x7f" <= c <= "\x9f" for c in text)
