"""Where groups come from: sampled rollouts, demonstrations, pairs, stored groups.

A source draws at most what the budget still allows (``ctx.reserve``) and returns no groups when it can draw none.
Its state is how many items it has drawn; the order is a permutation of the split, a new one each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.protocols import Context, Part, State
from equipoise.types import Cost, Decoder, Group, Prompt, Task


@lru_cache(maxsize=8)
def _order(key: Key, n: int) -> NDArray[np.int64]:
    return key.permutation(n)


def take(ctx: Context, n: int, size: int, start: int) -> list[int]:
    """``size`` indices below ``n`` from position ``start`` of the endless shuffled order."""
    order = Key(ctx.key.path[:1]) / "order"  # the same for every method of a seed: arms are paired on prompts
    return [int(_order(order / (i // n), n)[i % n]) for i in range(start, start + size)]


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ArgumentError(f"{name}={size}: expected at least 1")


def _require(task: Task, what: str, present: object, who: str) -> None:
    if present is None:
        have = [n for n in ("verify", "demonstrate", "pair") if getattr(task, n) is not None] or ["only prompts"]
        raise ArgumentError(f"{who} needs a task with {what}; {task.name!r} has {', '.join(have)}")


def sampled(task: Task, prompts: int, samples: int, temperature: float = 1.0) -> Part:
    """``samples`` responses of the current policy to each of ``prompts`` training prompts.

    Truncating samplers have no place here: the policy that is trained must be the one that sampled."""
    _positive(prompts=prompts, samples=samples)
    if temperature <= 0:
        raise ArgumentError(f"temperature={temperature}: training samples need a temperature above 0")
    _require(task, "a verifier", task.verify, "sampling")
    decoder = Decoder(task.max_new_tokens, temperature)
    split = task.splits["train"]

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, start)]
        fits = ctx.reserve([ctx.bound(len(p.ids or ()), samples, task.max_new_tokens, True) for p in drawn])
        keys = [ctx.key / ctx.step / (start + j) for j in range(fits)]
        new = ctx.engine.sample(drawn[:fits], samples, decoder, keys) if fits else []
        return [*groups, *new], start + fits

    sizes = {"prompts": prompts, "samples": samples, "tokens": task.max_new_tokens}
    gives = frozenset({"prompts", "responses"})
    return Part(
        f"sampled({prompts} x {samples})", run, gives=gives, spends=frozenset({"generated_tokens"}), sizes=sizes
    )


def demonstrations(task: Task, prompts: int) -> Part:
    """``prompts`` training prompts, each with its demonstration: groups of one. One label each time shown."""
    _positive(prompts=prompts)
    _require(task, "demonstrations", task.demonstrate, "supervised fine-tuning")
    split = task.splits["train"]

    def build(ctx: Context, prompt: Prompt) -> Group:
        encoded = ctx.engine.encode(prompt)
        reply = task.demonstrate(prompt) if task.demonstrate else None
        if reply is None:
            raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has no demonstration")
        return Group(encoded, (ctx.engine.encode_reply(encoded, reply, "demonstration"),))

    return _given(f"demonstrations({prompts})", split, prompts, build, "demonstration")


def pairs(task: Task, prompts: int) -> Part:
    """``prompts`` preference pairs from the data: groups of two, the preferred one first."""
    _positive(prompts=prompts)
    _require(task, "preference pairs", task.pair, "learning from given pairs")
    split = task.splits["train"]

    def build(ctx: Context, prompt: Prompt) -> Group:
        encoded = ctx.engine.encode(prompt)
        both = task.pair(prompt) if task.pair else None
        if both is None:
            raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has no pair")
        return Group(encoded, tuple(ctx.engine.encode_reply(encoded, reply, "pair") for reply in both))

    return _given(f"pairs({prompts})", split, prompts, build, "preference")


def _given(
    name: str, split: Sequence[Prompt], size: int, build: Callable[[Context, Prompt], Group], label: str
) -> Part:
    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        built = [build(ctx, split[i]) for i in take(ctx, len(split), size, start)]
        fits = ctx.reserve([_cost(ctx, g) + Cost(labels={label: 1}) for g in built])
        return [*groups, *built[:fits]], start + fits

    gives = frozenset({"prompts", "responses"})
    return Part(name, run, gives=gives, spends=frozenset({"labels"}), sizes={"prompts": size})


def _cost(ctx: Context, group: Group) -> Cost:
    longest = max(len(r.ids) for r in group.responses)
    return ctx.bound(len(group.prompt.ids or ()), len(group.responses), longest, False)


Select = Callable[[Sequence[Group]], list[Group]]


def stored(name: str, select: Select, size: int, epochs: int) -> Part:
    """``size`` of the groups that ``select`` makes of the store ``name`` each step; dry after ``epochs`` passes."""
    _positive(size=size, epochs=epochs)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        chosen = select(ctx.stores.get(name, ()))
        end = min(start + size, epochs * len(chosen))
        batch = [chosen[i] for i in take(ctx, len(chosen), end - start, start)] if end > start else []
        fits = ctx.reserve([_cost(ctx, g) for g in batch])
        return [*groups, *batch[:fits]], start + fits

    gives = frozenset({"prompts", "responses", "scores"})
    return Part(f"stored({name}, {size})", run, gives=gives, sizes={"groups": size, "passes": epochs})


def right_answers(cap: int) -> Select:
    """Each distinct right response as a group of one, at most ``cap`` a prompt."""
    _positive(cap=cap)

    def select(groups: Sequence[Group]) -> list[Group]:
        kept: dict[str, dict[tuple[int, ...], Group]] = {}
        for g in groups:
            mine = kept.setdefault(g.prompt.id, {})
            for r, s in zip(g.responses, g.scores, strict=True):
                if s.status == "right" and len(mine) < cap:
                    mine.setdefault(tuple(r.ids.tolist()), Group(g.prompt, (r,), (s,)))
        return [one for mine in kept.values() for one in mine.values()]

    return select


def right_wrong_pairs(cap: int) -> Select:
    """Pairs of a right and a wrong response to one prompt, right first; at most ``cap`` a group, none used twice."""
    _positive(cap=cap)

    def select(groups: Sequence[Group]) -> list[Group]:
        made = []
        for g in groups:
            scored = list(zip(g.responses, g.scores, strict=True))
            right = [x for x in scored if x[1].status == "right"]
            wrong = [x for x in scored if x[1].status in ("wrong", "unparsed")]
            for (r, s), (q, z) in list(zip(right, wrong, strict=False))[:cap]:
                made.append(Group(g.prompt, (r, q), (s, z)))
        return made

    return select


def refill(draw: Part, signal: Part, keep: Part, rounds: int) -> Part:
    """Draw, score and filter again until as many groups are kept as one draw makes, or ``rounds`` draws are made.

    Every draw is charged. DAPO, 2503.14476, calls it dynamic sampling."""
    _positive(rounds=rounds)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        inner, kept, wanted = state or [None, None, None], list[Group](), None
        for turn in range(rounds):
            drawn, inner[0] = draw(ctx.at(f"round {turn}") if turn else ctx, [], inner[0])
            wanted = len(drawn) if wanted is None else wanted
            scored, inner[1] = signal(ctx, drawn, inner[1])
            passed, inner[2] = keep(ctx, scored, inner[2])
            room = wanted - len(kept)
            kept += passed[:room]
            ctx.dropped.extend(passed[room:])  # surplus of the last round
            if not drawn or len(kept) >= wanted:
                break
        return [*groups, *kept], inner

    both = chain_gives(draw, signal, keep)
    return Part(f"refill({draw.name}, {keep.name}, {rounds})", run, gives=both, spends=draw.spends, sizes=draw.sizes)


def chain_gives(*parts: Part) -> frozenset[str]:
    """All that the parts give together."""
    return frozenset().union(*(p.gives for p in parts))
