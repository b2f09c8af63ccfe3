"""Responses that are told, or held to, a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.starts import Start, extended, graft
from equipoise.protocols import Context, Part, State
from equipoise.types import Cost, Decoder, Group, Note, Prompt, Response, Task


def tokens_of(shares: Sequence[float], longest: int) -> list[int]:
    """Budgets in tokens from shares of the longest response: rising, each at least 1. Raises ArgumentError."""
    tokens = [max(1, round(share * longest)) for share in shares]
    if not tokens or not all(0 < share <= 1 for share in shares) or tokens != sorted(set(tokens)):
        raise ArgumentError(
            f"budgets={list(shares)} of {longest} tokens are {tokens} tokens; expected rising shares in (0, 1], far "
            "enough apart to be different numbers of tokens"
        )
    return tokens


def announced(task: Task, prompts: int, samples: int, shares: Sequence[float], sentence: str) -> Part:
    """For each of ``prompts`` training prompts and each budget b, ``samples`` responses that begin with ``sentence``
    ("{budget}" in it becomes b). The sentence is not trained, nor part of the text that a verifier reads. All responses
    to a prompt are one group; response note "budget": b in tokens."""
    positive(prompts=prompts, samples=samples)
    split, longest = train_split(task), task.max_new_tokens
    budgets = tokens_of(shares, longest)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        begin, openings = state or 0, [ctx.engine.encode_text(sentence.replace("{budget}", str(b))) for b in budgets]
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, begin)]
        bounds = [
            _sum(ctx.bound(len(p.ids or ()) + len(opening), samples, longest, True) for opening in openings)
            for p in drawn
        ]
        fits = ctx.reserve(bounds)
        starts = [Start(p, opening) for p in drawn[:fits] for opening in openings]
        keys = [ctx.key / ctx.step / (begin + j) / k for j in range(fits) for k in range(len(budgets))]
        told = ctx.engine.sample([extended(s) for s in starts], samples, Decoder(longest), keys) if fits else []
        made = [
            [replace(graft(ctx.engine, s, r), text=r.text) for r in g.responses]
            for s, g in zip(starts, told, strict=True)
        ]
        note = Note("response", (np.repeat(np.array(budgets, dtype=np.float64), samples),))
        k = len(budgets)
        new = [
            Group(p, tuple(r for part in made[j * k : (j + 1) * k] for r in part), notes={"budget": note})
            for j, p in enumerate(drawn[:fits])
        ]
        return [*groups, *new], begin + fits

    sizes = {"prompts": prompts, "samples": samples * len(budgets), "tokens": longest}
    gives, spends = frozenset({"prompts", "responses", "note:budget"}), frozenset({"generated_tokens"})
    name = f"announced({prompts} x {len(budgets)} budgets {','.join(map(str, budgets))} x {samples})"
    return Part(name, run, gives=gives, spends=spends, sizes=sizes)


def interrupted(
    task: Task, prompts: int, traces: int, summaries: int, shares: Sequence[float], ending: str, longest: int
) -> Part:
    """For each of ``prompts`` training prompts ``traces`` responses of at most the last budget. From the first b tokens
    of each and ``ending``, which is not trained, ``summaries`` continuations of at most ``longest`` tokens, for each b.

    A trace that ended by itself is cut before its end, once for all budgets that it did not reach. Traces come first in
    the group. Response notes: "trace" (which one), "cut" (tokens of the trace before the summary; -1 of a trace)."""
    positive(prompts=prompts, traces=traces, summaries=summaries, longest=longest)
    split, most = train_split(task), task.max_new_tokens
    budgets = tokens_of(shares, most)

    def bound(ctx: Context, prompt: Prompt, n: int) -> Cost:
        begin = len(prompt.ids or ())
        later = [ctx.bound(begin + b + n, traces * summaries, longest, True) for b in budgets]
        return _sum([ctx.bound(begin, traces, budgets[-1], True), *later])

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        begin, forced = state or 0, ctx.engine.encode_text(ending) if ending else ()
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, begin)]
        fits = ctx.reserve([bound(ctx, p, len(forced)) for p in drawn])
        keys = [ctx.key / ctx.step / (begin + j) for j in range(fits)]
        thought = ctx.engine.sample(drawn[:fits], traces, Decoder(budgets[-1]), keys) if fits else []
        each = [(j, i, r) for j, g in enumerate(thought) for i, r in enumerate(g.responses)]
        places = [(j, i, c) for j, i, r in each for c in _cuts(r, budgets)]
        starts = [Start(thought[j].prompt, (*thought[j].responses[i].ids[:c].tolist(), *forced)) for j, i, c in places]
        keys = [keys[j] / "cut" / i / c for j, i, c in places]
        told = ctx.engine.sample([extended(s) for s in starts], summaries, Decoder(longest), keys) if fits else []
        new = [_gathered(ctx, g, j, places, starts, told) for j, g in enumerate(thought)]
        return [*groups, *new], begin + fits

    sizes = {"prompts": prompts, "samples": traces, "summaries": summaries * len(budgets), "tokens": max(most, longest)}
    gives, spends = frozenset({"prompts", "responses", "note:cut"}), frozenset({"generated_tokens"})
    name = f"interrupted({prompts} x {traces}, at {','.join(map(str, budgets))} tokens x {summaries})"
    return Part(name, run, gives=gives, spends=spends, sizes=sizes)


def _cuts(trace: Response, budgets: Sequence[int]) -> list[int]:
    """Where a trace is cut: at each budget that it reaches, and at its own end if that comes before the last."""
    n = len(trace.ids) - (trace.stop == "eos")
    return sorted({min(b, n) for b in budgets})


def _gathered(
    ctx: Context,
    group: Group,
    j: int,
    places: Sequence[tuple[int, int, int]],
    starts: Sequence[Start],
    told: Sequence[Group],
) -> Group:
    """A prompt's traces and their summaries as one group."""
    found = [
        (i, c, graft(ctx.engine, s, r))
        for (k, i, c), s, g in zip(places, starts, told, strict=True)
        for r in g.responses
        if k == j
    ]
    traces = [*enumerate(group.responses)]
    notes: dict[str, Any] = {
        "trace": [*(i for i, _ in traces), *(i for i, _, _ in found)],
        "cut": [*(-1 for _ in traces), *(c for _, c, _ in found)],
    }
    return Group(
        group.prompt,
        (*group.responses, *(r for _, _, r in found)),
        notes={name: Note("response", (np.array(x, dtype=np.float64),)) for name, x in notes.items()},
    )


def _sum(costs: Any) -> Cost:
    return sum(costs, Cost())
