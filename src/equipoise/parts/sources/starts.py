"""Responses that begin with given tokens, and continuations drawn on the side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.protocols import Context, Engine
from equipoise.types import Decoder, Group, Prompt, Response


@dataclass(frozen=True)
class Start:
    """Where sampling begins: an encoded prompt and the first tokens of the response, which are not trained."""

    prompt: Prompt
    ids: tuple[int, ...] = ()


def extended(start: Start) -> Prompt:
    """The start as a prompt of its own: the given tokens belong to it."""
    return replace(start.prompt, ids=(*(start.prompt.ids or ()), *start.ids))


def graft(engine: Engine, start: Start, response: Response) -> Response:
    """A response to ``extended(start)`` as a response to ``start.prompt``: the given tokens come first, untrained,
    as a segment of their own. Its text is the whole."""
    if not start.ids:
        return response
    n = len(start.ids)
    assert response.logprobs is not None
    ids = np.concatenate([np.array(start.ids, dtype=np.int64), response.ids])
    return replace(
        response,
        ids=ids,
        logprobs=np.concatenate([np.zeros(n, dtype=np.float32), response.logprobs]),
        trained=np.concatenate([np.zeros(n, dtype=bool), response.trained]),
        segment=np.concatenate([np.zeros(n, dtype=np.int32), response.segment + np.int32(1)]),
        text=engine.decode(ids.tolist()),
    )


def branch(
    ctx: Context, starts: Sequence[Start], n: int, decoder: Decoder, name: str, policy: str = "current"
) -> list[Group]:
    """``n`` continuations of each start, charged like any sampling but never trained on by themselves: for estimates
    of values, second passes, other turns. One group a start, grafted; only as many as the budget allows.

    ``name`` sets its randomness apart from other draws of the step."""
    prompts = [extended(s) for s in starts]
    bounds = [ctx.engine.bound(len(p.ids or ()), n, decoder.max_new_tokens, True, 0, 0) for p in prompts]
    fits = ctx.reserve(bounds)
    keys = [ctx.key / ctx.step / name / j for j in range(fits)]
    drawn = ctx.engine.sample(prompts[:fits], n, decoder, keys, policy) if fits else []
    return [
        replace(g, prompt=s.prompt, responses=tuple(graft(ctx.engine, s, r) for r in g.responses))
        for s, g in zip(starts, drawn, strict=False)
    ]
