"""Which prompts come next: pools to draw from, and sources that score what they draw and remember how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from equipoise.errors import ArgumentError, UnknownName
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.memories import Pool
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Decoder, Group, Prompt, Task


def first(task: Task, n: int) -> Pool:
    """The first ``n`` training prompts."""
    pool = train_split(narrowed(task, n))
    return lambda ctx: pool


def narrowed(task: Task, n: int) -> Task:
    """The task with its first ``n`` training prompts only."""
    positive(pool=n)
    return replace(task, splits={**task.splits, "train": train_split(task)[:n]})


def named(task: Task, name: str, mislabelled: bool = False) -> Pool:
    """The one training prompt with this id; ``mislabelled``: with the answer of another, the first that differs."""
    split = train_split(task)
    found = next((p for p in split if p.id == name), None)
    if found is None:
        raise UnknownName(f"training prompt of {task.name}", name, [p.id for p in split])
    return lambda ctx: [_mislabelled(split, found) if mislabelled else found]


def most_variable(task: Task, store: str, mislabelled: bool = False) -> Pool:
    """The one prompt of a store whose pass rate varied most over its appearances (population variance); among equals
    the one whose pass rate was nearest to one half. 2504.20571."""
    split = train_split(task)

    def spread(rates: list[float]) -> tuple[float, float]:
        return float(np.var(rates)), -abs(float(np.mean(rates)) - 0.5)

    def pool(ctx: Context) -> Sequence[Prompt]:
        rates: dict[str, list[float]] = {}
        prompts = {g.prompt.id: g.prompt for g in ctx.stores.get(store, ())}
        for g in ctx.stores.get(store, ()):
            rates.setdefault(g.prompt.id, []).append(_pass_rate(g))
        if not rates:
            return []
        best = prompts[max(rates, key=lambda name: spread(rates[name]))]
        return [_mislabelled(split, best) if mislabelled else best]

    return pool


def _mislabelled(split: Sequence[Prompt], prompt: Prompt) -> Prompt:
    other = next((p.answer for p in split if p.answer is not None and p.answer != prompt.answer), None)
    if other is None:
        raise ArgumentError("a wrong label needs prompts with different answers, and this task's have none to swap")
    return replace(prompt, answer=other)


def _pass_rate(group: Group) -> float:
    live = [s for s in group.scores if s.status not in FAILED]
    return sum(s.status == "right" for s in live) / max(len(live), 1)


@dataclass(frozen=True)
class Curriculum:
    """``choose(ctx, n, memory)``: at most ``n`` indices of the split, at least one unless it is dry, and the memory.
    ``learn(memory, index, group)``: the memory after a scored group. The memory is JSON-able; both are pure."""

    name: str
    start: Any
    choose: Callable[[Context, int, Any], tuple[list[int], Any]]
    learn: Callable[[Any, int, Group], Any]


def scheduled(
    task: Task, prompts: int, samples: int, verdict: Part, curriculum: Curriculum, temperature: float = 1.0
) -> Part:
    """``samples`` scored responses to each of ``prompts`` prompts that the curriculum chooses, knowing the scores of
    those before. Keys and bounds are those of ``sampled``."""
    positive(prompts=prompts, samples=samples)
    require(task, "a verifier", task.verify, "a curriculum")
    split, decoder = train_split(task), Decoder(task.max_new_tokens, temperature)

    def draw(ctx: Context, chosen: list[int], count: int) -> list[Group]:
        encoded = [ctx.engine.encode(split[i]) for i in chosen]
        fits = ctx.reserve([ctx.bound(len(p.ids or ()), samples, task.max_new_tokens, True) for p in encoded])
        keys = [ctx.key / ctx.step / (count + j) for j in range(fits)]
        return verdict(ctx, ctx.engine.sample(encoded[:fits], samples, decoder, keys), None)[0] if fits else []

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        count, memory = state or (0, curriculum.start)
        new: list[Group] = []
        while len(new) < prompts:  # a curriculum may choose fewer, to see their scores first
            chosen, memory = curriculum.choose(ctx, prompts - len(new), memory)
            drawn = draw(ctx, chosen, count)
            for i, g in zip(chosen, drawn, strict=False):
                memory = curriculum.learn(memory, i, g)
            new, count = new + drawn, count + len(drawn)
            if not drawn or len(drawn) < len(chosen):
                break
        return [*groups, *new], [count, memory]

    sizes = {"prompts": prompts, "samples": samples, "tokens": task.max_new_tokens}
    gives = frozenset({"prompts", "responses", "scores"})
    name = f"scheduled({prompts} x {samples}, {curriculum.name}, {verdict.name})"
    return Part(name, run, gives=gives, spends=frozenset({"generated_tokens"}), sizes=sizes)


def without_solved(task: Task) -> Curriculum:
    """Epochs over the split without prompts whose group of an earlier epoch was all right; prompts that were all wrong
    stay. When none is left all come back. 2504.14286."""
    n = len(train_split(task))

    def rest(ctx: Context, memory: Any) -> list[int]:
        out = set(memory["out"])
        return [i for i in take(ctx, n, n, memory["epoch"] * n) if i not in out]

    def choose(ctx: Context, wanted: int, memory: Any) -> tuple[list[int], Any]:
        return rest(ctx, memory)[memory["at"] : memory["at"] + wanted], memory

    def learn(memory: Any, i: int, group: Group) -> Any:
        solved = [*memory["solved"], i] if _pass_rate(group) == 1 else memory["solved"]
        at, left = memory["at"] + 1, n - len(memory["out"])
        if at < left:
            return {**memory, "at": at, "solved": solved}
        out = sorted({*memory["out"], *solved})
        return {"epoch": memory["epoch"] + 1, "at": 0, "solved": [], "out": out if len(out) < n else []}

    return Curriculum("without_solved", {"epoch": 0, "at": 0, "solved": [], "out": []}, choose, learn)


FLOOR = 0.05  # added to a mean reward before it is inverted: a prompt never solved is at most 21 times a solved one


def by_length(task: Task, phases: int, replay: float) -> Curriculum:
    """The split in ``phases`` of equal size, by length of the prompt, each for an equal share of the budget. From the
    second on a prompt is with probability ``replay`` one seen in an earlier phase, drawn in proportion to
    1 / (its mean reward + FLOOR). 2505.17667."""
    split = train_split(task)
    if not 1 <= phases <= len(split):
        raise ArgumentError(f"phases={phases}: expected from 1 to the number of training prompts, {len(split)}")
    if not 0 <= replay < 1:
        raise ArgumentError(f"replay={replay}: the share of prompts of earlier phases; expected a number in [0, 1)")

    @cache
    def members() -> list[list[int]]:
        order = sorted(range(len(split)), key=lambda i: _length(split[i]))
        return [sorted(part.tolist()) for part in np.array_split(order, phases)]

    def own(ctx: Context, memory: Any) -> Any:
        """The memory with the phase that this step is in, which what the step reserves does not move."""
        if memory["step"] == ctx.step:
            return memory
        return {**memory, "step": ctx.step, "phase": min(int(ctx.ledger.fraction() * phases), phases - 1)}

    def choose(ctx: Context, wanted: int, memory: Any) -> tuple[list[int], Any]:
        memory = own(ctx, memory)
        now, seen, start = memory["phase"], memory["seen"], memory["drawn"][memory["phase"]]
        fresh = iter(take(ctx, len(members()[now]), wanted, start))
        earlier = [i for part in members()[:now] for i in part if str(i) in seen]
        hardness = np.cumsum([seen[str(i)][1] / (FLOOR * seen[str(i)][1] + seen[str(i)][0]) for i in earlier])
        chosen = []
        for j in range(wanted):
            key = ctx.key / ctx.step / "replay" / (memory["count"] + j)
            if earlier and key.uniform(0) < replay:
                place = int(np.searchsorted(hardness, key.uniform(1) * hardness[-1], "right"))
                chosen.append(earlier[min(place, len(earlier) - 1)])
            else:
                chosen.append(members()[now][next(fresh)])
        return chosen, memory

    def learn(memory: Any, i: int, group: Group) -> Any:
        live = [s.value for s in group.scores if s.status not in FAILED]
        total, n = memory["seen"].get(str(i), (0.0, 0))
        seen = {**memory["seen"], str(i): [total + float(np.mean(live)), n + 1]} if live else memory["seen"]
        fresh = [k == memory["phase"] and i in part for k, part in enumerate(members())]
        drawn = [count + new for count, new in zip(memory["drawn"], fresh, strict=True)]
        return {**memory, "count": memory["count"] + 1, "drawn": drawn, "seen": seen}

    name = f"by_length({phases}, replay {replay:g})"
    start = {"step": -1, "phase": 0, "count": 0, "drawn": [0] * phases, "seen": {}}
    return Curriculum(name, start, choose, learn)


def _length(prompt: Prompt) -> int:
    """Characters of a prompt."""
    if prompt.text is not None:
        return len(prompt.text)
    return sum(len(str(m.get("content", ""))) for m in prompt.messages)
