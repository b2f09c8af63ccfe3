"""Reading a file as ``file:`` would, tokenising its rows, and counting what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, groupby
from typing import Any

import numpy as np

from equipoise.errors import TooLong, UnknownName
from equipoise.protocols import Engine
from equipoise.tasks.file import SPLITS, FileSplit, Need, lacking, source_of, unjudged
from equipoise.tasks.formats import Columns
from equipoise.tasks.progress import watched
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
    template: bool = False  # the model has one
    gives: list[str] = field(default_factory=list)  # of "demonstrations", "pairs", "answers"
    labelled_bad: int = 0  # rows that are left out for it
    refusal: str | None = None  # why training would refuse the splits
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
            (self.too_long, f"rows refused: longer than the {self.context:,} tokens that {self.model} reads",
             "--task.long drop or truncate"),
            (self.without_loss, "replies without a trained token", "check the chat template and the roles"),
            (self.without_end, "replies whose last trained token is no end token: the model would not learn to stop",
             "correct eos_token or the chat template"),
            (self.double_start, "rows that begin with the same special token twice",
             "leave the token out of the data or of the template"),
            (self.duplicates, "rows refused: each repeats an earlier one", "--task.duplicates drop or keep"),
            *((n, f"prompts refused: shared by {where}", "--task.duplicates drop") for where, n in self.shared.items()),
            (self.control, "rows with control characters", "look at them: they are often a sign of a broken export"),
        )  # fmt: skip
        refused = [f"training would refuse this file: {self.refusal}"] if self.refusal else []
        return refused + [f"{count:,} {what}; {fix}" for count, what, fix in counted if count]

    def hints(self) -> list[str]:
        """What is no fault and perhaps not meant."""
        found = []
        if self.rows and not self.chat and self.template:
            found.append(
                f"prompts are plain text, and {self.model} has a chat template; --task.chat puts them as a user's turn"
            )
        if not {"demonstrations", "pairs"} & set(self.gives):
            found.append("there are no replies to learn from: training needs a verifier (--task.verifier)")
        if self.labelled_bad:
            found.append(f"{self.labelled_bad:,} rows labelled bad are left out; the good ones are demonstrations")
        return found


def inspect(path: str, engine: Engine, test: str | None = None, **columns: Any) -> Report:
    """Read ``path`` as the task ``file:<path>`` and tokenise its rows. ``columns``: names of columns, and ``chat``.

    Raises DataError for faults, as the task does. Duplicates and splits that are too small are reported.
    """
    try:
        names = Columns(**columns)
    except TypeError:
        unknown = sorted(set(columns) - {f.name for f in fields(Columns)})
        raise UnknownName("knob of data check", unknown[0], [f.name for f in fields(Columns)]) from None
    task = unjudged(path, names, Need(praise=True), test, "keep")
    report = _begun(path, task, engine)
    _compare(report, task)
    lengths: dict[str, list[int]] = {"prompt": [], "reply": [], "prompt + reply": []}
    splits = [s for s in task.splits.values() if len(s)]
    chosen = chain.from_iterable(_spread(s, CHECKED * len(s) // report.rows + 1) for s in splits)
    for prompt in watched(chosen, f"tokenising {path}", min(CHECKED, report.rows)):
        _look(report, task, prompt, engine, lengths)
        report.checked += 1
    report.lengths = {
        name: [int(q) for q in np.percentile(found, QUANTILES, method="inverted_cdf")]
        for name, found in lengths.items()
        if found
    }
    return report


def _begun(path: str, task: Task, engine: Engine) -> Report:
    """What is known before a row is tokenised."""
    source = source_of(task)
    first = next((split[0] for split in task.splits.values() if len(split)), None)
    given = {"demonstrations": task.demonstrate, "pairs": task.pair, "answers": first and first.answer}
    return Report(
        path=path,
        form=source.form,
        rows=sum(map(len, task.splits.values())),
        splits={name: len(split) for name, split in task.splits.items()},
        columns=source.columns,
        model=engine.info.name,
        context=engine.info.context,
        chat=first is not None and bool(first.messages),
        template=bool(getattr(getattr(engine, "tokenizer", None), "chat_template", None)),
        gives=[name for name, one in given.items() if one is not None],
        labelled_bad=int((~source.used).sum()),
        refusal=_refusal(task),
    )


def _refusal(task: Task) -> str | None:
    """Why these splits cannot be trained, evaluated and tested on."""
    if (why := lacking(task.splits)) is not None:
        return why
    few = [f"{len(task.splits[n])} {n} item" for n in ("validation", "test") if len(task.splits[n]) < 2]
    return (
        f"{' and '.join(few)}, and an interval needs at least 2. Add rows, or mark more of them in a 'split' column"
        if few
        else None
    )


def _compare(report: Report, task: Task) -> None:
    """Repetitions within the file, and prompts that two splits share."""
    splits = [s for s in task.splits.values() if isinstance(s, FileSplit)]
    sources = {id(s.source): s.source for s in splits}.values()
    report.duplicates = sum(len(s.repetitions(s.whole)) for s in sources)
    report.repeated_prompts = sum(len(s.repetitions(s.words)) for s in sources)
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
        lengths["prompt + reply"].append(len(ids) + len(response.ids))
        trained = response.ids[response.trained]
        report.without_loss += not len(trained)
        report.without_end += bool(len(trained)) and int(trained[-1]) not in engine.info.eos
    report.double_start += len(ids) > 1 and ids[0] == ids[1] and not engine.decode(ids[:1])
    if len(report.examples) < SHOWN:
        report.examples += _shown(prompt, ids, responses, engine)


def _shown(
    prompt: Prompt, ids: list[int], responses: Sequence[Response], engine: Engine
) -> Iterator[tuple[str, list[Span]]]:
    """A row as it is printed, with a title; a pair is two."""
    names = [", chosen", ", rejected"] if len(responses) == 2 else [""]
    answer = "" if prompt.answer is None else f", answer: {str(prompt.answer)[:60]}"
    for i, name in enumerate(names):
        yield f"{prompt.id}{name}{answer}", list(_spans(ids, responses[i : i + 1], engine))


def _replies(task: Task, prompt: Prompt) -> list[Reply]:
    given = [task.demonstrate(prompt) if task.demonstrate else None]
    given += (task.pair(prompt) or ()) if task.pair else ()
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
