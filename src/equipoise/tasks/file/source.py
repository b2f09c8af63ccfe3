"""One pass over a file: every row checked and read into one shape, an index kept, all faults told together."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import DataError
from equipoise.tasks.formats import FORMATS, Columns, Example, Malformed, detect, read
from equipoise.tasks.progress import watched
from equipoise.tasks.rows import Faults, Rows, open_rows
from equipoise.tasks.splits import hash_of, text_of
from equipoise.types import Prompt

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2, "eval": 2}


@dataclass(frozen=True)
class Need:
    """What every row must have."""

    answer: bool = False
    reply: bool = False  # a reply or a pair
    praise: bool = False  # of labelled rows, those labelled good are learned from and the others left out


@dataclass
class Source:
    """An indexed file."""

    rows: Rows
    names: Columns
    form: str
    words: NDArray[np.uint64]  # [rows] hash of the normalised prompt
    whole: NDArray[np.uint64]  # [rows] hash of all that is learned from a row: what a duplicate repeats
    places: NDArray[np.int8]  # [rows] index into SPLITS; -1 where the file names no split
    used: NDArray[np.bool_]  # [rows] false for rows labelled bad where the good ones are learned from
    columns: list[str]  # other than prompt and reply
    kinds: Counter[str]  # how many rows have a reply, a pair, a label
    prefix: str = ""  # of ids: those of a second file must not meet those of the first

    def repetitions(self, words: NDArray[np.uint64]) -> list[tuple[int, int]]:
        """(first, later) rows in use whose ``words`` are equal, one pair for each row that repeats an earlier one."""
        rows = np.flatnonzero(self.used)
        return [(int(rows[a]), int(rows[b])) for a, b in repeated(words[rows])]

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


def index(path: Path, names: Columns, need: Need, form: str | None = None) -> Source:
    """Read every row once. Raises DataError with all faults."""
    rows, faults = open_rows(path), Faults(path)
    words, whole, places, used = array("Q"), array("Q"), array("b"), array("b")
    ids, owners = array("Q"), array("Q")
    columns: dict[str, None] = {}
    kinds: Counter[str] = Counter()
    for row in watched(rows.scan(faults), f"reading {path.name}", rows.total, lambda: rows.done):
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
        used.append(not (need.praise and example and example.label is False))
        if example:
            columns.update(dict.fromkeys(example.rest))
            kinds.update({"reply": example.reply is not None, "pair": example.pair is not None,
                          "label": example.label is not None})  # fmt: skip
    if len(rows) == 0 and not faults.counts:
        raise DataError(f"{path}: no rows, only empty lines, a header or an empty list; expected one row per prompt")
    _check_ids(ids, owners, rows, names, faults)
    faults.raise_any(rows.seen)
    assert form is not None
    as_words = (np.array(words, dtype=np.uint64), np.array(whole, dtype=np.uint64))
    as_flags = (np.array(places, dtype=np.int8), np.array(used, dtype=np.bool_))
    return Source(rows, names, form, *as_words, *as_flags, list(columns), kinds)


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
