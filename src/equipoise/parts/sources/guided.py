"""Rollouts that a decoder begins and the plain policy ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from equipoise.keys import Key
from equipoise.parts.checks import positive
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.starts import Start, extended, graft
from equipoise.protocols import Context, Part, State
from equipoise.types import Adjust, Decoder, Group, Prompt, Response, Task


def begun_by(task: Task, prompts: int, samples: int, adjust: Adjust) -> Part:
    """``samples`` responses to each of ``prompts`` training prompts: m tokens drawn by the adjusted decoder, which are
    not trained, then the plain policy to the end. m is uniform below the longest response, one a prompt and step. A
    response that ends within its m tokens has nothing to train."""
    positive(prompts=prompts, samples=samples)
    split, longest = train_split(task), task.max_new_tokens

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, start)]
        once = [ctx.bound(len(p.ids or ()), samples, longest, True) for p in drawn]
        # Drawn in two parts, the second after a prompt of its own for each sample.
        more = [ctx.engine.bound(len(p.ids or ()) + longest, 1, longest, True, 0, 0) for p in drawn]
        fits = ctx.reserve([a + replace(b, generated_tokens=0).times(samples) for a, b in zip(once, more, strict=True)])
        new = [_group(ctx, p, samples, longest, adjust, start + j) for j, p in enumerate(drawn[:fits])]
        return [*groups, *new], start + fits

    gives, sizes = frozenset({"prompts", "responses"}), {"prompts": prompts, "samples": samples, "tokens": longest}
    name = f"begun_by({prompts} x {samples}, {adjust.name})"
    return Part(name, run, adjust.needs, gives, frozenset({"generated_tokens"}), sizes)


def _group(ctx: Context, prompt: Prompt, n: int, longest: int, adjust: Adjust, item: int) -> Group:
    key = ctx.key / ctx.step / item
    m = (key / "length").integer(longest)
    if m == 0:
        return ctx.engine.sample([prompt], n, Decoder(longest), [key])[0]
    begun = ctx.engine.sample([prompt], n, Decoder(m, adjust=adjust), [key / "begin"])[0].responses
    open_ = [i for i, r in enumerate(begun) if r.stop == "length" and len(r.ids) == m]
    starts = [Start(prompt, tuple(begun[i].ids.tolist())) for i in open_]
    keys = [key / "end" / i for i in open_]
    whole = dict(zip(open_, _finish(ctx, starts, Decoder(longest - m), keys), strict=True))
    return Group(prompt, tuple(whole.get(i, _untrained(r)) for i, r in enumerate(begun)))


def _finish(ctx: Context, starts: Sequence[Start], decoder: Decoder, keys: Sequence[Key]) -> list[Response]:
    drawn = ctx.engine.sample([extended(s) for s in starts], 1, decoder, keys)
    return [graft(ctx.engine, s, g.responses[0]) for s, g in zip(starts, drawn, strict=True)]


def _untrained(response: Response) -> Response:
    return replace(response, trained=np.zeros_like(response.trained))
