"""Verifiers by name: a reply against what the data says is right.

    exact          the reply equals the row's answer, after normalisation
    regex          the row's answer is a pattern that is found in the reply
    math-verify    the reply's mathematics equals the answer's (extra ``math``)
    json-schema    the reply is JSON that satisfies a schema
    module:name    your own ``f(prompts, completions, **columns) -> list[float | None]``

Everything but ``exact`` without an extraction pattern runs in processes that can be killed: mathematics, patterns and
users' code can hang, and a hang must cost a deadline, not the run. A failure of the verifier is never a reward of 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.errors import ArgumentError, MissingExtra, UnknownName, VerifierFailure
from equipoise.types import FAILED, Prompt, Score
from equipoise.verify.pool import Pool, Settings
from equipoise.verify.verdicts import Item, Verdict, exact

NAMES = ("exact", "regex", "math-verify", "json-schema")
_TARGETS = {name: f"equipoise.verify.verdicts:{name.replace('-', '_')}" for name in NAMES}

Verify = Callable[[Sequence[Prompt], Sequence[str]], list[Score]]


@dataclass(frozen=True)
class Verifier:
    """``verify(prompts, texts) -> [Score]``, one per pair. ``close`` ends its processes; so does the end of Python."""

    name: str
    verify: Verify
    close: Callable[[], None]

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def named(
    name: str,
    *,
    answer_regex: str | None = None,
    schema: Mapping[str, Any] | bool | None = None,
    right_at: float = 1.0,
    deadline_s: float = 10.0,
    workers: int = 2,
    columns: Sequence[str] | None = None,
) -> Verifier:
    """The verifier called ``name``.

    ``answer_regex``: the part of the reply that is judged: the last match's first group, or the whole match; without
    a match the reply is "unparsed". ``schema``: for json-schema; None takes each row's answer as its schema.
    ``right_at``: the value from which a function's score counts as right. ``deadline_s``: wall-clock seconds per call
    (of up to 16 replies). ``columns``: those of the data, against which a function's parameters are checked. The
    verifier is loaded at once, in a process.

    Raises UnknownName, MissingExtra, or ArgumentError when it cannot be loaded.
    """
    if name not in NAMES and ":" not in name:
        raise UnknownName("verifier", name, [*NAMES, "module:function"])
    if name == "math-verify" and importlib.util.find_spec("math_verify") is None:
        raise MissingExtra("math-verify", 'pip install "equipoise[math]"')
    if not deadline_s > 0:
        raise ArgumentError(f"deadline_s={deadline_s!r}: expected seconds above 0")
    if name == "exact" and answer_regex is None:
        return Verifier(name, lambda prompts, texts: _scores(exact(_items(prompts, texts), {})), lambda: None)
    target = _TARGETS.get(name, name)
    options = {"answer_regex": answer_regex, "schema": schema, "right_at": right_at, "columns": columns}
    pool = Pool(target, options, Settings(workers=workers, deadline_s=deadline_s))
    try:
        pool.check()
    except ArgumentError:
        pool.close()
        raise
    return Verifier(name, from_pool(pool), pool.close)


def from_pool(pool: Pool) -> Verify:
    """``verify`` of a task whose replies are judged by a pool."""
    return lambda prompts, texts: _scores(pool(_items(prompts, texts)))


def failed(scores: Iterable[Score]) -> list[Score]:
    """The scores that are failures of the verifier. "Does not apply" (None) is none, though it is no verdict either."""
    return [s for s in scores if s.status in FAILED and s.parts.get("applies", 1.0)]


def check_failures(seen: int, failures: int, share: float = 0.01, least: int = 3, messages: Sequence[str] = ()) -> None:
    """Raises VerifierFailure once at least ``least`` and more than ``share`` of the ``seen`` verdicts have failed."""
    if failures < least or failures <= share * seen:
        return
    distinct = list(dict.fromkeys(m for m in messages if m))[:3]
    said = "".join(f"\n  {m}" for m in distinct)
    raise VerifierFailure(
        f"the verifier failed on {failures:,} of {seen:,} responses ({failures / seen:.1%}), more than the {share:.0%} "
        f"that a run may lose; no failure was counted as a reward of 0.{said}\n"
        "Mend the verifier (or raise its deadline with --task.deadline-s), then resume the run."
    )


def _items(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Item]:
    return [
        Item(
            prompt=p.text if p.text is not None else [dict(m) for m in p.messages],
            text=text,
            answer=p.answer,
            columns=dict(p.meta),
        )
        for p, text in zip(prompts, texts, strict=True)
    ]


def _scores(verdicts: Iterable[Verdict]) -> list[Score]:
    return [
        Score(v.value, v.status, parts={} if v.applies else {"applies": 0.0}, answer=v.answer, message=v.message)
        for v in verdicts
    ]
