"""Responses that begin with the first steps of a demonstration.

A step is a line of the demonstration where it has several, else a word, else a token. The last step is never given: it
is what remains to be said. Level l of ``levels`` gives the first floor(l (U - 1) / levels) of U steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.memories import Pool
from equipoise.parts.sources.starts import Start, extended, graft
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import Cost, Decoder, Group, Prompt, Response, Task


def boundaries(engine: Engine, response: Response) -> list[int]:
    """Where each step but the first begins, in tokens of the response, rising; [] if it is one step.

    A boundary inside a token moves to that token's beginning, so that a step keeps its blank before it."""
    n = len(response.ids) - (response.stop == "eos")  # the end of the turn is no step
    ends = [len(engine.decode(response.ids[: t + 1].tolist())) for t in range(n)]
    text = engine.decode(response.ids[:n].tolist())
    for gap in (r"\s*\n\s*", r"\s+"):
        cuts = [m.start() for m in re.finditer(gap, text) if m.start() > 0 and m.end() < len(text)]
        if cuts:
            return sorted({k for k in (sum(end <= cut for end in ends) for cut in cuts) if k > 0})
    return list(range(1, n))


def beginning(engine: Engine, response: Response, level: int, levels: int) -> tuple[int, ...]:
    """Tokens of the steps that ``level`` of ``levels`` gives; level 0 gives none."""
    cuts = [0, *boundaries(engine, response)]
    given = cuts[level * (len(cuts) - 1) // levels] if levels else 0
    return tuple(response.ids[:given].tolist())


def demonstration(engine: Engine, task: Task, prompt: Prompt) -> Response:
    """The demonstration of an encoded prompt. Raises ArgumentError where there is none, or it has several turns."""
    reply = task.demonstrate(prompt) if task.demonstrate else None
    if not isinstance(reply, str):
        found = "no demonstration" if reply is None else f"a demonstration of {len(reply)} turns"
        raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has {found}; its beginning needs one of one turn")
    return engine.encode_reply(prompt, reply, "demonstration")


def unsolved(store: str) -> Pool:
    """The distinct prompts of a store that no response in it answers right, in the order they came."""

    def pool(ctx: Context) -> Sequence[Prompt]:
        kept = ctx.stores.get(store, ())
        right = {g.prompt.id for g in kept if any(s.status == "right" for s in g.scores)}
        return list({g.prompt.id: g.prompt for g in kept if g.prompt.id not in right}.values())

    return pool


def prefixed(
    task: Task, prompts: int, samples: int, given: Sequence[int], levels: int, *, among: Pool | None = None
) -> Part:
    """``samples`` responses of the current policy from each of ``prompts`` starts: a training prompt with the first
    steps of its demonstration, which are not trained. The starts are every pair of a prompt and a level in ``given``
    (0 .. ``levels``), shuffled. A start that shows anything costs one label. ``among``: the prompts to draw from."""
    positive(prompts=prompts, samples=samples)
    require(task, "demonstrations", task.demonstrate, "starting from their beginnings")
    if not given or not all(0 <= k <= levels for k in given):
        raise ArgumentError(f"given={list(given)}: expected at least one level, each from 0 to levels={levels}")
    split, longest = train_split(task), task.max_new_tokens

    def start(ctx: Context, pool: Sequence[Prompt], i: int) -> Start:
        prompt, level = ctx.engine.encode(pool[i % len(pool)]), given[i // len(pool)]
        shown = beginning(ctx.engine, demonstration(ctx.engine, task, prompt), level, levels) if level else ()
        return Start(prompt, shown)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        begin, pool = state or 0, split if among is None else among(ctx)
        drawn = take(ctx, len(given) * len(pool), prompts, begin) if len(pool) else []
        starts = [start(ctx, pool, i) for i in drawn]
        new = from_starts(ctx, starts, samples, Decoder(longest), begin, ["demonstration"] * len(starts))
        return [*groups, *new], begin + len(new)

    needs = frozenset({"demonstrations"} if any(given) else ())
    sizes = {"prompts": prompts, "samples": samples, "tokens": longest}
    spends = frozenset({"generated_tokens"})  # and labels, but how many depends on what is drawn
    name = f"prefixed({prompts} x {samples}, {','.join(map(str, given))} of {levels} parts given)"
    return Part(name, run, needs, frozenset({"prompts", "responses"}), spends, sizes)


def from_starts(
    ctx: Context, starts: Sequence[Start], n: int, decoder: Decoder, first: int, labels: Sequence[str | None]
) -> list[Group]:
    """``n`` trained continuations of each start, whole; as many starts as the budget allows. ``first``: the number of
    the first one, for its key. ``labels``: what kind of label a start shows, if it shows anything."""

    def bound(start: Start, label: str | None) -> Cost:
        most = ctx.bound(len(start.prompt.ids or ()) + len(start.ids), n, decoder.max_new_tokens, True)
        return most + Cost(labels={label: 1}) if label and start.ids else most

    fits = ctx.reserve([bound(s, label) for s, label in zip(starts, labels, strict=True)])
    keys = [ctx.key / ctx.step / (first + j) for j in range(fits)]
    drawn = ctx.engine.sample([extended(s) for s in starts[:fits]], n, decoder, keys) if fits else []
    return [
        replace(g, prompt=s.prompt, responses=tuple(graft(ctx.engine, s, r) for r in g.responses))
        for s, g in zip(starts, drawn, strict=False)
    ]
