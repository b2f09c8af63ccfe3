"""Conversations: the policy speaks, hears something, and speaks again, in one response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.attempts import asking_again, longest, words
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.spans import spans
from equipoise.parts.sources.starts import Start, branch
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import FAILED, Decoder, Group, Prompt, Response, Task

Teacher = Literal["best", "demonstration"]


def conversed(
    task: Task,
    prompts: int,
    samples: int,
    say: str,
    turns: int = 2,
    temperature: float = 1.0,
    *,
    until_right: bool = False,
) -> Part:
    """``samples`` conversations to each of ``prompts`` training prompts: at most ``turns`` attempts of the policy in
    one response, with ``say`` as the user's words between them ({} is the question), which are not trained.
    ``until_right``: the verifier looks after each attempt and a right one is the last. A truncated one is, too."""
    positive(prompts=prompts, samples=samples, turns=turns)
    require(task, "a verifier", task.verify, "a conversation")
    if temperature <= 0:
        raise ArgumentError(f"temperature={temperature}: training samples need a temperature above 0")
    split = train_split(task)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start, said = state or 0, words(ctx.engine, say)
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, start)]
        bounds = [ctx.bound(len(p.ids or ()), samples, longest(task, turns, said(p)), True) for p in drawn]
        fits = ctx.reserve(bounds)
        decoder = Decoder(turns * task.max_new_tokens, temperature)

        def done(prompt: Prompt, response: Response) -> bool:
            return until_right and _right(ctx.engine, task, prompt, response)

        reply = asking_again(task, turns, said, done)
        keys = [ctx.key / ctx.step / (start + j) for j in range(fits)]
        return [*groups, *ctx.engine.sample(drawn[:fits], samples, decoder, keys, reply=reply)], start + fits

    sizes = {"prompts": prompts, "samples": samples, "tokens": turns * task.max_new_tokens}
    name = f"conversed({prompts} x {samples}, {turns} turns{' or right' if until_right else ''})"
    return Part(name, run, frozenset(), frozenset({"prompts", "responses"}), frozenset({"generated_tokens"}), sizes)


def _right(engine: Engine, task: Task, prompt: Prompt, response: Response) -> bool:
    assert task.verify is not None
    said = engine.decode(response.ids[spans(response)[-1]].tolist())
    return task.verify([prompt], [said])[0].status == "right"


def last_reply_from(task: Task, teacher: Teacher, samples: int) -> Part:
    """The last attempt of each conversation is replaced: by the best by the verifier of ``samples`` fresh ones of the
    policy (the first of the best), or by the task's demonstration. Where the budget has no room, or the first attempt
    was right already, the conversation stays as it was."""
    positive(samples=samples)
    if teacher not in ("best", "demonstration"):
        raise ArgumentError(f"teacher={teacher!r}: expected 'best' (of the policy's own samples) or 'demonstration'")
    if teacher == "demonstration":
        require(task, "demonstrations", task.demonstrate, "a demonstration as last reply")
    decoder = Decoder(task.max_new_tokens)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        places = [(i, k) for i, g in enumerate(groups) for k, r in enumerate(g.responses) if len(spans(r)) > 1]
        heads = [groups[i].responses[k] for i, k in places]
        starts = [Start(groups[i].prompt, _before(r)) for (i, _), r in zip(places, heads, strict=True)]
        if teacher == "demonstration":
            found = [_shown(ctx.engine, task, s.prompt) for s in starts]
        else:
            made = _tails(ctx.engine, branch(ctx, starts, samples, decoder, "best"), starts)
            found = [_best(task, g) for g in made]
        new = dict(zip(places, found, strict=False))
        return [
            replace(g, responses=tuple(_spliced(ctx.engine, r, new.get((i, k))) for k, r in enumerate(g.responses)))
            for i, g in enumerate(groups)
        ], state

    spends = frozenset({"generated_tokens"}) if teacher == "best" else frozenset[str]()
    name = f"last reply: best of {samples}" if teacher == "best" else "last reply: demonstration"
    sizes = {"further": samples} if teacher == "best" else {}
    return Part(name, run, frozenset({"responses"}), frozenset({"responses"}), spends, sizes)


def _before(response: Response) -> tuple[int, ...]:
    """All tokens before the last attempt."""
    return tuple(response.ids[: spans(response)[-1][0]].tolist())


def _tails(engine: Engine, made: list[Group], starts: Sequence[Start]) -> list[Group]:
    """Continuations without what they continue."""

    def tail(r: Response, n: int) -> Response:
        text = engine.decode(r.ids[n:].tolist())
        assert r.logprobs is not None
        return replace(
            r, ids=r.ids[n:], logprobs=r.logprobs[n:], trained=r.trained[n:], segment=r.segment[n:], text=text
        )

    return [
        replace(g, responses=tuple(tail(r, len(s.ids)) for r in g.responses))
        for g, s in zip(made, starts, strict=False)
    ]


def _best(task: Task, group: Group) -> Response:
    """The first of those with the highest verdict; truncated ones and failed verdicts count 0."""
    assert task.verify is not None
    scores = task.verify([group.prompt] * len(group.responses), [r.text for r in group.responses])
    values = [
        0.0 if r.stop == "length" or s.status in FAILED else s.value
        for r, s in zip(group.responses, scores, strict=True)
    ]
    return group.responses[values.index(max(values))]


def _shown(engine: Engine, task: Task, prompt: Prompt) -> Response:
    reply = task.demonstrate(prompt) if task.demonstrate else None
    if reply is None:
        raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has no demonstration")
    return engine.encode_reply(prompt, reply, "demonstration")


def _spliced(engine: Engine, response: Response, tail: Response | None) -> Response:
    """The response with ``tail`` in place of its last attempt."""
    if tail is None:
        return response
    n = len(_before(response))
    last = int(response.segment[-1])
    ids = np.concatenate([response.ids[:n], tail.ids])
    known = response.logprobs is not None and tail.logprobs is not None
    return replace(
        response,
        ids=ids,
        logprobs=np.concatenate([response.logprobs[:n], tail.logprobs]) if known else None,  # type: ignore[index]
        trained=np.concatenate([response.trained[:n], tail.trained]),
        segment=np.concatenate([response.segment[:n], np.full(len(tail.ids), last, dtype=np.int32)]),
        text=engine.decode(ids.tolist()),
        origin=tail.origin,
        stop=tail.stop,
    )
