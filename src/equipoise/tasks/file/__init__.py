"""Your own data: ``file:<path>`` reads JSON, CSV or Parquet in any format of :mod:`equipoise.tasks.formats`.

One pass over the file checks every row and keeps an index; rows are read when they are used, so memory grows with the
number of rows (some 50 bytes each), not with the size of the file. All faults are reported at once, with counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.errors import ArgumentError, DataError
from equipoise.tasks.file.context import fit, one_of
from equipoise.tasks.file.source import SPLITS, Need, Source, index, repeated
from equipoise.tasks.file.splits import FileSplit, lacking, source_of, split_rows
from equipoise.tasks.formats import Columns
from equipoise.tasks.rows import digest
from equipoise.types import Prompt, Reply, Task
from equipoise.verify import Verifier, named

__all__ = [
    "SPLITS",
    "FileSplit",
    "Need",
    "Source",
    "fit",
    "lacking",
    "repeated",
    "source_of",
    "task",
    "unjudged",
]


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
    """A file of prompts with demonstrations, preferences or answers. Without a verifier, demonstrations and pairs are
    evaluated by their likelihood. Raises DataError with every fault found, and what :func:`equipoise.verify.named`
    raises.

    verifier: exact, regex, math-verify, json-schema, module:function or FILE.py:function. answer_regex: the part of a
    reply that is judged, its last match. schema: for json-schema, a file or an object. right_at: from which value a
    function's score counts as right. deadline_s: seconds that a call of the verifier may take. test: a file with the
    test prompts. long: refuse, drop or truncate rows longer than the model's context. duplicates: refuse, drop or keep
    repeated rows and prompts shared by splits. chat: text prompts are put to the model as a user's turn. prompt,
    completion, chosen, rejected, label, messages, answer, id, split: what your column of this kind is called.
    """
    one_of("long", long, ("refuse", "drop", "truncate"))
    names = Columns(prompt, completion, chosen, rejected, label, messages, answer, id, split, chat)
    need = Need(_needs_answer(verifier, answer_regex, schema), reply=verifier is None, praise=verifier is None)
    found = unjudged(path, names, need, test, duplicates)
    if (why := lacking(found.splits)) is not None:
        raise DataError(f"{path}: {why}{_labels(found)}")
    judge = _verifier(verifier, answer_regex, schema, right_at, deadline_s, source_of(found).columns)
    return replace(found, verify=judge.verify, close=judge.close) if judge else found


def unjudged(path: str, names: Columns, need: Need, test: str | None, duplicates: str) -> Task:
    """The file's prompts, demonstrations and pairs, without a verifier; splits may be empty."""
    one_of("duplicates", duplicates, ("refuse", "drop", "keep"))
    sources = [index(Path(path), names, need)]
    if test is not None:
        sources.append(replace(index(Path(test), names, need, sources[0].form), prefix="test:"))
    splits, notes = split_rows(sources, duplicates, test is not None)
    kinds = sources[0].kinds
    count = sum(map(len, splits.values()))
    shown = kinds["reply"] and (need.praise or not kinds["label"])  # a verifier judges labelled rows' replies itself
    return Task(
        name=f"file:{path}",
        summary="; ".join([f"{count:,} rows of {Path(path).name}, format {sources[0].form}", *notes]),
        splits=splits,
        max_new_tokens=256,
        fingerprint="+".join(digest(s.rows.path) for s in sources),
        demonstrate=_completion if shown else None,
        pair=_pair if kinds["pair"] else None,
    )


# --- what a run asks of it


def _completion(prompt: Prompt) -> Reply | None:
    return prompt.meta.get("completion")


def _pair(prompt: Prompt) -> tuple[Reply, Reply] | None:
    return (prompt.meta["chosen"], prompt.meta["rejected"]) if "chosen" in prompt.meta else None


def _labels(task: Task) -> str:
    """What labels have to do with it."""
    bad = int((~source_of(task).used).sum())
    return f". {bad:,} rows labelled bad are left out: only replies labelled good can be learned from" if bad else ""


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
