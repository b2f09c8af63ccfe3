"""What earlier samples are remembered for: which prompts they answered, and one right response to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.draws import take, train_split
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Cost, Decoder, Group, Prompt, Response, Score, Task

Pool = Callable[[Context], Sequence[Prompt]]


def prompts_of(store: str, solved: bool = False) -> Pool:
    """The distinct prompts of a store, in the order they came; with ``solved`` those with a right response."""

    def pool(ctx: Context) -> Sequence[Prompt]:
        kept = [g for g in ctx.stores.get(store, ()) if not solved or any(s.status == "right" for s in g.scores)]
        return list({g.prompt.id: g.prompt for g in kept}.values())

    return pool


def rated(store: str, low: float, high: float) -> Pool:
    """The distinct prompts of a store that were answered right at a rate from ``low`` to ``high``, both included, over
    all their verdicts in it; in the order they came."""
    if not 0 <= low <= high <= 1:
        raise ArgumentError(f"pass rates from {low:g} to {high:g}: expected 0 <= low <= high <= 1")

    def pool(ctx: Context) -> Sequence[Prompt]:
        prompts: dict[str, Prompt] = {}
        right: dict[str, list[bool]] = {}
        for g in ctx.stores.get(store, ()):
            prompts.setdefault(g.prompt.id, g.prompt)
            live = [s.status == "right" for s in g.scores if s.status not in FAILED]
            right.setdefault(g.prompt.id, []).extend(live)
        return [p for name, p in prompts.items() if right[name] and low <= float(np.mean(right[name])) <= high]

    return pool


def remembered(task: Task, verdict: Part, prompts: int) -> Part:
    """One scored response of the current policy to each of ``prompts`` training prompts, and beside it the last right
    one to that prompt, unless this one is right: then it is the one remembered from now on.

    An independence chain on right responses (2312.02179): where the remembered one is distributed as pi given that it
    is right, so is the next. Temperature 1, or it is not. A remembered response has origin "memory" and no recorded
    log-probs: it was charged when it was drawn."""
    positive(prompts=prompts)
    require(task, "a verifier", task.verify, "sampling")
    split, longest = train_split(task), task.max_new_tokens

    def bound(ctx: Context, prompt: Prompt, memory: dict[str, Any]) -> Cost:
        n, kept = len(prompt.ids or ()), memory.get(prompt.id)
        return ctx.bound(n, 1, longest, True) + (ctx.bound(n, 1, len(kept["ids"]), False) if kept else Cost())

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start, memory = state or (0, {})
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, start)]
        fits = ctx.reserve([bound(ctx, p, memory) for p in drawn])
        keys = [ctx.key / ctx.step / (start + j) for j in range(fits)]
        sampled = ctx.engine.sample(drawn[:fits], 1, Decoder(longest), keys) if fits else []
        scored, _ = verdict(ctx, sampled, None)
        return [*groups, *(_with_memory(g, memory) for g in scored)], [start + fits, _updated(memory, scored)]

    sizes = {"prompts": prompts, "samples": 1, "remembered": 1, "tokens": longest}
    gives = frozenset({"prompts", "responses", "scores"})
    name = f"remembered({prompts} x 1, {verdict.name})"
    return Part(name, run, gives=gives, spends=frozenset({"generated_tokens"}), sizes=sizes)


def _with_memory(group: Group, memory: dict[str, Any]) -> Group:
    kept = memory.get(group.prompt.id)
    if kept is None or group.scores[0].status == "right":
        return group
    n = len(kept["ids"])
    old = Response(
        ids=np.array(kept["ids"], dtype=np.int64),
        logprobs=None,
        trained=np.ones(n, dtype=bool),
        segment=np.zeros(n, dtype=np.int32),
        text=kept["text"],
        origin="memory",
    )
    score = Score(kept["value"], "right", answer=kept["answer"])
    return replace(group, responses=(*group.responses, old), scores=(*group.scores, score))


def _updated(memory: dict[str, Any], scored: Sequence[Group]) -> dict[str, Any]:
    right = {
        g.prompt.id: {"ids": r.ids.tolist(), "text": r.text, "value": s.value, "answer": s.answer}
        for g in scored
        for r, s in zip(g.responses, g.scores, strict=True)
        if s.status == "right"
    }
    return {**memory, **right}
