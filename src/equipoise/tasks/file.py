"""Your own data: ``file:<path>`` reads JSONL, CSV or Parquet in any format of :mod:`equipoise.tasks.formats`.

One pass over the file checks every row and keeps an index; rows are read when they are used, so memory grows with the
number of rows (some 50 bytes each), not with the size of the file. All faults are reported at once, with counts.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError, DataError, TooLong
from equipoise.protocols import Engine
from equipoise.tasks.formats import FORMATS, Columns, Example, Malformed, detect, read
from equipoise.tasks.procedural import between
from equipoise.tasks.rows import Faults, Rows, digest, open_rows
from equipoise.tasks.splits import hash_of, split_of, text_of
from equipoise.types import Prompt, Reply, Task
from equipoise.verify import Verifier, named

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
SPLIT_NAMES = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2, "eval": 2}


def task(
    path: str,
    verifier: str | None = None,
    answer_regex: str | None = None,
    schema: str | None = None,
    right_at: float = 1.0,
    deadline_s: float = 10.0,
    test: str | None = None,
    long: str = "refuse",
    duplicates: str = "refuse",
    max_new_tokens: int = 256,
    chat: bool = False,
    prompt: str = "prompt",
    completion: str = "completion",
    chosen: str = "chosen",
    rejected: str = "rejected",
    label: str = "label",
    messages: str = "messages",
    answer: str = "answer",
    id: str = "id",
    split: str = "split",
) -> Task:
    """A file of prompts with demonstrations, preferences or answers.

    ``verifier``: exact, regex, math-verify, json-schema or module:function; without one, demonstrations and pairs are
    evaluated by their likelihood. ``test``: a file with the test prompts. ``long`` is what :func:`fit` does with rows
    longer than the model's context. ``chat`` puts text prompts to the model as a user's turn. The last nine knobs name
    columns. Raises DataError with every fault found, and what :func:`equipoise.verify.named` raises.
    """
    _one_of("long", long, ("refuse", "drop", "truncate"))
    between("file.max_new_tokens", max_new_tokens, 1, 1_000_000)
    names = Columns(prompt, completion, chosen, rejected, label, messages, answer, id, split, chat)
    need = Need(answer=_needs_answer(verifier, answer_regex, schema), reply=verifier is None)
    found = unjudged(path, names, need, test, duplicates, max_new_tokens)
    judge = _verifier(verifier, answer_regex, schema, right_at, deadline_s, source_of(found).columns)
    return replace(found, verify=judge.verify, close=judge.close) if judge else found


def unjudged(path: str, names: Columns, need: Need, test: str | None, duplicates: str, max_new_tokens: int) -> Task:
    """The file's prompts, demonstrations and pairs, without a verifier."""
    _one_of("duplicates", duplicates, ("refuse", "drop", "keep"))
    sources = [_index(Path(path), names, need)]
    if test is not None:
        sources.append(replace(_index(Path(test), names, need, sources[0].form), prefix="test:"))
    splits, notes = _split(sources, duplicates, test is not None)
    kinds = sources[0].kinds
    count = sum(map(len, splits.values()))
    return Task(
        name=f"file:{path}",
        summary="; ".join([f"{count:,} rows of {Path(path).name}, format {sources[0].form}", *notes]),
        splits=splits,
        max_new_tokens=max_new_tokens,
        fingerprint="+".join(digest(s.rows.path) for s in sources),
        demonstrate=_completion if kinds["reply"] and not kinds["label"] else None,
        pair=_pair if kinds["pair"] else None,
    )


# --- one pass over a file


@dataclass(frozen=True)
class Need:
    """What every row must have."""

    answer: bool = False
    reply: bool = False  # a reply or a pair


@dataclass
class Source:
    """An indexed file."""

    rows: Rows
    names: Columns
    form: str
    words: NDArray[np.uint64]  # [rows] hash of the normalised prompt
    whole: NDArray[np.uint64]  # [rows] hash of all that is learned from a row: what a duplicate repeats
    places: NDArray[np.int8]  # [rows] index into SPLITS; -1 where the file names no split
    columns: list[str]  # other than prompt and reply
    kinds: Counter[str]  # how many rows have a reply, a pair, a label
    prefix: str = ""  # of ids: those of a second file must not meet those of the first

    def prompt(self, row: int) -> Prompt:
        """The prompt of a row; replies travel in its meta, in the ecosystem's names."""
        content = self.rows[row]
        example = read(content, self.form, self.names)
        given: dict[str, Any] = {}
        if example.reply is not None:
            given["completion"] = example.reply
        if example.pair is not None:
            given["chosen"], given["rejected"] = example.pair
        if example.label is not None:
            given["label"] = example.label
        own = content.get(self.names.id)
        return Prompt(
            id=f"{self.prefix}{own}" if own is not None else f"{self.rows.path.name}:{self.rows.number(row)}",
            messages=example.messages,
            text=example.text,
            answer=example.answer,
            meta={**example.rest, **given},
        )


def _index(path: Path, names: Columns, need: Need, form: str | None = None) -> Source:
    """Read every row once. Raises DataError with all faults."""
    rows, faults = open_rows(path), Faults(path)
    words, whole, places = array("Q"), array("Q"), array("b")
    ids, owners = array("Q"), array("Q")
    columns: dict[str, None] = {}
    kinds: Counter[str] = Counter()
    for row in rows.scan(faults):
        where = f"{rows.unit} {rows.number(len(rows) - 1)}"
        found = detect(row, names)
        form = form or found
        if found is None:
            faults.add("no known format", where, f"columns {', '.join(row)}", _format_fix())
        if row.get(names.id) is not None:
            ids.append(_hash(str(row[names.id])))
            owners.append(len(rows) - 1)
        places.append(_place(row.get(names.split), where, names, faults))
        example = _example(row, found, form, names, need, where, faults)
        words.append(hash_of(text_of(_bare(example))) if example else 0)
        whole.append(_digest(words[-1], example) if example else 0)
        if example:
            columns.update(dict.fromkeys(example.rest))
            kinds.update({"reply": example.reply is not None, "pair": example.pair is not None,
                          "label": example.label is not None})  # fmt: skip
    if len(rows) == 0 and not faults.counts:
        raise DataError(f"{path}: no rows, only empty lines or a header; expected one row per prompt")
    _check_ids(ids, owners, rows, names, faults)
    faults.raise_any(rows.seen)
    assert form is not None
    as_words = (np.array(words, dtype=np.uint64), np.array(whole, dtype=np.uint64))
    return Source(rows, names, form, *as_words, np.array(places, dtype=np.int8), list(columns), kinds)


def _example(
    row: Mapping[str, Any], found: str | None, form: str | None, names: Columns, need: Need, where: str, faults: Faults
) -> Example | None:
    """A row in one shape; None after a fault."""
    if found is None or form is None:
        return None
    if found != form:
        got = f"format {found} (columns {', '.join(k for k, v in row.items() if v is not None)}) in a {form} file"
        faults.add("mixed formats", where, got, "one format per file: split it, or fill the missing columns")
        return None
    try:
        example = read(row, form, names)
    except Malformed as fault:
        got = f"column {fault.column}: {fault.got}, expected {fault.expected}"
        faults.add(f"malformed {form} row", where, got, "correct or remove these rows")
        return None
    if need.answer and example.answer is None:
        fix = f"fill column {names.answer!r}, or name the column that holds it: --task.answer NAME"
        faults.add("no answer for the verifier", where, f"column {names.answer}: nothing", fix)
    elif need.reply and example.reply is None and example.pair is None:
        fix = "give a verifier (--task.verifier exact, regex, math-verify, json-schema or module:function)"
        faults.add("nothing to learn from", where, f"a {form} row without reply", f"{fix}, or add replies")
    return example


def _bare(example: Example) -> Prompt:
    return Prompt(id="", messages=example.messages, text=example.text)


def _digest(word: int, example: Example) -> int:
    """64 bits of a prompt's hash with the replies learned from; without replies, of the prompt alone."""
    learned = [r for r in (example.reply, *(example.pair or ())) if r is not None]
    return _hash(json.dumps([word, learned], default=str)) if learned else word


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def repeated(words: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """(first, later) places of equal words, one pair for each place that repeats an earlier one."""
    order = np.argsort(words, kind="stable")
    fresh = np.ones(len(words), dtype=np.bool_)
    fresh[1:] = words[order][1:] != words[order][:-1]
    first = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
    return sorted(((int(a), int(b)) for a, b in zip(first[~fresh], order[~fresh], strict=True)), key=lambda p: p[1])


def _check_ids(ids: array[int], owners: array[int], rows: Rows, names: Columns, faults: Faults) -> None:
    for first, later in repeated(np.array(ids, dtype=np.uint64)):
        own = str(rows[owners[later]].get(names.id))[:60]
        got = f"column {names.id}: {own!r} as in {rows.unit} {rows.number(owners[first])}"
        where = f"{rows.unit} {rows.number(owners[later])}"
        faults.add("duplicate id", where, got, "give each row its own id, or leave the column out: --task.id ''")


def _place(value: object, where: str, names: Columns, faults: Faults) -> int:
    if value is None:
        return -1
    place = SPLIT_NAMES.get(str(value).strip().lower())
    if place is None:
        fix = f"use train, validation or test; if column {names.split!r} is something else: --task.split ''"
        faults.add("unknown split", where, f"column {names.split}: {str(value)[:60]!r}", fix)
    return -1 if place is None else place


def _format_fix() -> str:
    return (
        f"known formats: {', '.join(FORMATS)}; name columns that are called otherwise, "
        "e.g. --task.prompt question --task.answer solution"
    )


# --- splits


@dataclass(frozen=True)
class FileSplit(Sequence[Prompt]):
    """Rows of a file, read when looked at. ``change`` adapts the rows in ``changed`` to a model."""

    source: Source
    places: NDArray[np.int64]  # [n] rows of the file
    changed: frozenset[int] = frozenset()
    change: Callable[[Prompt], Prompt] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self.places[index])  # raises IndexError past the end, which ends an iteration
        prompt = self.source.prompt(row)
        return self.change(prompt) if self.change and row in self.changed else prompt


def source_of(task: Task) -> Source:
    """The indexed file behind a task's training split."""
    split = task.splits["train"]
    assert isinstance(split, FileSplit)
    return split.source


def _split(sources: list[Source], duplicates: str, has_test: bool) -> tuple[dict[str, FileSplit], list[str]]:
    """Rows of each split and notes for the summary. Raises DataError for duplicates and empty splits."""
    main = sources[0]
    notes: list[str] = []
    places = main.places.copy()
    if has_test:
        places[places == 2] = -1
    _assign(main, places, has_test, notes)
    parts = [(main, places), *((s, np.full(len(s.rows), 2, dtype=np.int8)) for s in sources[1:])]
    keep = _distinct(parts, duplicates, notes)
    splits = {}
    for place, name in enumerate(SPLITS):
        source, at = parts[-1] if place == 2 else parts[0]
        kept = keep[-1] if place == 2 else keep[0]
        splits[name] = FileSplit(source, np.flatnonzero((at == place) & kept))
    empty = [name for name, rows in splits.items() if not len(rows)]
    if empty:
        rows = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
        raise DataError(
            f"{main.rows.path}: nothing is left for {', '.join(empty)} ({rows}). At least three distinct prompts are "
            "needed; add rows, fill a 'split' column, or give --task.test PATH"
        )
    return splits, notes


def _assign(source: Source, places: NDArray[np.int8], has_test: bool, notes: list[str]) -> None:
    """Give every row without a split one by the hash of its prompt; in place. A split the file names is left alone."""
    named_splits = {int(p) for p in np.unique(places) if p >= 0}
    open_rows_ = np.flatnonzero(places < 0)
    wanted = [n for i, n in enumerate(SPLITS) if i == 0 or (i not in named_splits and not (i == 2 and has_test))]
    if named_splits and not len(open_rows_) and len(wanted) > 1:
        open_rows_ = np.flatnonzero(places == 0)  # the file leaves a split out: it is taken from train
    if not len(open_rows_):
        return
    shares = {n: SHARES[n] for n in wanted}
    for row in open_rows_:
        places[row] = SPLITS.index(split_of(int(source.words[row]), shares))
    for name in wanted[1:]:
        if not (places == SPLITS.index(name)).any():
            _lend(source, places, open_rows_, SPLITS.index(name))
    notes.append(f"{' and '.join(wanted[1:]) or 'train'} by hash of the prompt")


def _lend(source: Source, places: NDArray[np.int8], rows: NDArray[np.int64], place: int) -> None:
    """A small file may leave a split empty by chance: it gets the train prompt of the smallest hash."""
    train = [r for r in rows if places[r] == 0]
    if len({int(source.words[r]) for r in train}) > 1:
        word = min(int(source.words[r]) for r in train)
        for row in train:
            if int(source.words[row]) == word:
                places[row] = place


def _distinct(
    parts: list[tuple[Source, NDArray[np.int8]]], duplicates: str, notes: list[str]
) -> list[NDArray[np.bool_]]:
    """Which rows stay. A repetition is a row that says what an earlier one says; a leak is a prompt of the test or
    validation split that is trained on. Raises DataError where they are refused."""
    keep = [np.ones(len(source.rows), dtype=np.bool_) for source, _ in parts]
    if duplicates == "keep":
        return keep
    found = [*_repeated(parts, keep), *_leaked(parts, keep)]
    if found and duplicates == "refuse":
        lines = [f"{count:,} {what}" for what, count in found]
        raise DataError(
            f"{parts[0][0].rows.path}: " + "\n".join(lines) + "\n"
            "fix: remove them, or --task.duplicates drop (keeps the first, and test before train) or keep (as it is)"
        )
    notes += [f"{count:,} dropped: {what}" for what, count in found]
    return keep


def _repeated(parts: list[tuple[Source, NDArray[np.int8]]], keep: list[NDArray[np.bool_]]) -> list[tuple[str, int]]:
    found = []
    for (source, _), kept in zip(parts, keep, strict=True):
        pairs = repeated(source.whole)
        kept[[later for _, later in pairs]] = False
        if pairs:
            numbers = [f"{source.rows.number(b)} (as {source.rows.number(a)})" for a, b in pairs[:3]]
            what = "duplicate rows" if source.kinds["reply"] or source.kinds["pair"] else "duplicate prompts"
            found.append((f"{what}, case and spacing aside: {source.rows.unit} {', '.join(numbers)}", len(pairs)))
    return found


def _leaked(parts: list[tuple[Source, NDArray[np.int8]]], keep: list[NDArray[np.bool_]]) -> list[tuple[str, int]]:
    """Prompts shared by two splits stay in the later one: test before validation before train."""
    found = []
    for low, high in ((0, 1), (0, 2), (1, 2)):
        held = np.concatenate([s.words[(at == high) & k] for (s, at), k in zip(parts, keep, strict=True)])
        for (source, at), kept in zip(parts, keep, strict=True):
            shared = (at == low) & kept & np.isin(source.words, held)
            if shared.any():
                kept[shared] = False
                row = int(np.flatnonzero(shared)[0])
                where = f"{source.rows.unit} {source.rows.number(row)} of {source.rows.path.name}"
                what = f"rows of {SPLITS[low]} whose prompt is also in {SPLITS[high]}: {where}"
                found.append((what, int(shared.sum())))
    return found


# --- what a run asks of it


def _completion(prompt: Prompt) -> Reply | None:
    return prompt.meta.get("completion")


def _pair(prompt: Prompt) -> tuple[Reply, Reply] | None:
    return (prompt.meta["chosen"], prompt.meta["rejected"]) if "chosen" in prompt.meta else None


def _needs_answer(verifier: str | None, answer_regex: str | None, schema: str | None) -> bool:
    if verifier == "regex":
        return answer_regex is None
    return verifier in ("exact", "math-verify") or (verifier == "json-schema" and schema is None)


def _verifier(
    name: str | None,
    answer_regex: str | None,
    schema: str | None,
    right_at: float,
    deadline_s: float,
    columns: Sequence[str],
) -> Verifier | None:
    if name is None:
        given = {"answer_regex": answer_regex, "schema": schema}
        for knob, value in given.items():
            if value is not None:
                raise ArgumentError(f"--task.{knob} says how to judge replies, but there is no --task.verifier")
        return None
    return named(
        name,
        answer_regex=answer_regex,
        schema=_schema(schema),
        right_at=right_at,
        deadline_s=deadline_s,
        columns=columns,
    )


def _schema(given: str | None) -> Mapping[str, Any] | bool | None:
    """A JSON schema from a file or as it stands."""
    if given is None:
        return None
    path = Path(given)
    try:
        text = given if given.lstrip()[:1] == "{" else path.read_text(encoding="utf-8")
        schema = json.loads(text)
    except (OSError, ValueError) as fault:
        raise ArgumentError(f"--task.schema {given[:80]!r}: expected a JSON file or a JSON object: {fault}") from fault
    if not isinstance(schema, dict | bool):
        raise ArgumentError(f"--task.schema {given[:80]!r}: expected a JSON object, got {type(schema).__name__}")
    return schema


def _one_of(knob: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ArgumentError(f"--task.{knob} {value!r}: expected one of {', '.join(allowed)}")


# --- a model's context


def fit(task: Task, engine: Engine, long: str = "refuse") -> Task:
    """``task`` with what ``engine`` can read: prompt and longest reply (sampled ones: ``max_new_tokens``) together.

    Over-long rows are refused with their count ("refuse"), left out ("drop"), or their prompts are shortened from the
    beginning ("truncate": oldest turns first, the system turn stays). A reply is never cut: it would teach the model
    to end in mid-sentence. Raises DataError.
    """
    _one_of("long", long, ("refuse", "drop", "truncate"))
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
    return [int(r) for r in suspects if not _fits(task, engine, split.source.prompt(int(r)))]


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
