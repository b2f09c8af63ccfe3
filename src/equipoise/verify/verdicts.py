"""Judging replies: pure functions ``(items, options) -> [Verdict]``. Imports nothing heavy: workers start with it."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

Status = Literal["right", "wrong", "unparsed", "timeout", "error"]
Options = Mapping[str, Any]  # answer_regex, schema, right_at


@dataclass(frozen=True)
class Item:
    """One reply to judge, with its row."""

    prompt: str | list[dict[str, Any]]
    text: str
    answer: Any = None
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """``applies`` False: a user's function returned None. ``message``: why a verifier failed."""

    value: float
    status: Status
    answer: str | None = None
    message: str = ""
    applies: bool = True


def judged(right: bool, answer: str) -> Verdict:
    return Verdict(float(right), "right" if right else "wrong", answer)


UNPARSED = Verdict(0.0, "unparsed")


def error(message: str) -> Verdict:
    """A failure of the verifier or of the data's answer; no verdict on the reply."""
    return Verdict(0.0, "error", message=message)


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def extract(text: str, pattern: str | None) -> str | None:
    """The last match's first group, or the whole match; the stripped text without a pattern; None: no match."""
    if pattern is None:
        return text.strip()
    matches = deque(_pattern(pattern).finditer(text), maxlen=1)
    if not matches:
        return None
    return (matches[0].group(1 if matches[0].re.groups else 0) or "").strip()


def normalised(text: str) -> str:
    """Compatibility forms, case, spacing, surrounding quotes and a final full stop do not count."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(".").strip("\"'` ")


def _answers(answer: Any) -> list[str]:
    """A row's answer as texts; a list means that any of them is right."""
    several = answer if isinstance(answer, list | tuple) else [answer]
    return [a if isinstance(a, str) else json.dumps(a) for a in several]


def exact(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Right if what is extracted equals the row's answer (one of them, if it is a list) after normalisation."""

    def one(item: Item) -> Verdict:
        found = extract(item.text, options.get("answer_regex"))
        if found is None or not found:
            return UNPARSED
        return judged(normalised(found) in map(normalised, _answers(item.answer)), normalised(found))

    return [one(item) for item in items]


def regex(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Right if the row's answer, a pattern, is found in what is extracted. Rows without an answer: if anything is."""

    def one(item: Item) -> Verdict:
        found = extract(item.text, options.get("answer_regex"))
        if found is None:
            return UNPARSED
        if item.answer is None:
            return judged(True, found)
        try:
            match = _pattern(str(item.answer)).search(found)
        except re.error as fault:
            return error(f"the row's answer {str(item.answer)[:80]!r} is no regular expression: {fault}")
        return judged(match is not None, match.group(0) if match else found)

    return [one(item) for item in items]


def math_verify(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Right if math-verify finds the reply's mathematics equal to the answer's.

    Its own time limits rest on signals and are switched off: the process is killed instead.
    """
    from math_verify import parse, verify

    pattern = options.get("answer_regex")

    def read(text: str, bare: bool) -> list[Any]:
        return list(parse(_dollars(text) if bare else text, parsing_timeout=None))

    def one(item: Item) -> Verdict:
        gold = read(str(item.answer).rpartition("####")[2].strip(), bare=True)
        if not gold:
            return error(f"math-verify cannot read the row's answer {str(item.answer)[:80]!r}")
        found = extract(item.text, pattern)
        parsed = read(found, bare=pattern is not None) if found else []
        if not parsed:
            return UNPARSED
        return judged(bool(verify(gold, parsed, timeout_seconds=None)), str(parsed[0]))

    return [one(item) for item in items]


def _dollars(text: str) -> str:
    """A bare formula put between dollars; prose, and what is marked as mathematics already, as it is."""
    words = re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", text)
    return text if not text or words or "$" in text or "\\boxed" in text else f"${text}$"


def json_schema(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Right if the reply, or the one fenced block in it, is JSON that satisfies the schema."""
    from jsonschema.exceptions import SchemaError, ValidationError
    from jsonschema.validators import validator_for

    def one(item: Item) -> Verdict:
        schema = options.get("schema")
        if schema is None:
            schema = json.loads(item.answer) if isinstance(item.answer, str) else item.answer
        try:
            kind = validator_for(schema)
            kind.check_schema(schema)
        except SchemaError as fault:
            return error(f"not a JSON schema: {fault.message}")
        try:
            value = json.loads(_unfenced(extract(item.text, options.get("answer_regex")) or ""))
        except (ValueError, RecursionError):
            return UNPARSED
        try:
            kind(schema).validate(value)
        except ValidationError:
            return judged(False, json.dumps(value, sort_keys=True))
        return judged(True, json.dumps(value, sort_keys=True))

    return [one(item) for item in items]


def _unfenced(text: str) -> str:
    """What stands between the fences, where a reply holds exactly one fenced block."""
    blocks: list[str] = re.findall(r"```[a-zA-Z]*\n(.*?)```", text, re.DOTALL)
    return blocks[0] if len(blocks) == 1 else text


def from_reward(returned: object, n: int, right_at: float) -> list[Verdict]:
    """What a user's function returned, as verdicts. Numbers of any kind and None are welcome, nothing else is."""
    try:
        values = list(returned)  # type: ignore[call-overload]
    except TypeError:
        values = None
    if values is None or isinstance(returned, str | bytes | Mapping):
        return [error(f"returned {_shown(returned)}, expected a list of {n} numbers or None")] * n
    if len(values) != n:
        return [error(f"returned {len(values)} values for {n} completions, expected one each")] * n
    return [_one_reward(v, right_at) for v in values]


def _one_reward(value: object, right_at: float) -> Verdict:
    if value is None:
        return Verdict(0.0, "error", message="does not apply (the function returned None)", applies=False)
    if isinstance(value, str | bytes):
        return error(f"returned {_shown(value)}, expected a number or None")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return error(f"returned {_shown(value)}, expected a number or None")
    if not math.isfinite(number):
        return error(f"returned {number}, expected a finite number or None")
    return Verdict(number, "right" if number >= right_at else "wrong")


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"
