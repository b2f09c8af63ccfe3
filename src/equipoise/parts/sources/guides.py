"""Responses begun or finished by a guide: another policy, or the demonstrations.

The policy is trained on its own tokens only. Whether a guide takes part, and where the response is cut, is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.draws import take, train_split
from equipoise.parts.sources.prefixes import demonstration, from_starts
from equipoise.parts.sources.starts import Start, branch, extended
from equipoise.protocols import Context, Part, State
from equipoise.types import Cost, Decoder, Group, Prompt, Response, Task

GIVEN = "demonstrations"  # a guide that is no policy
Run = Callable[[Context, list[Group], State], tuple[list[Group], State]]


def rolled_in(task: Task, prompts: int, samples: int, guide: str, share: float) -> Part:
    """``samples`` responses of the policy to each of ``prompts`` training prompts; with probability ``share`` they
    go on from where a response of the guide is cut, after 0 .. n-1 of its n tokens: one cut a prompt."""
    split, longest = _checked(task, prompts, samples, guide, share)

    def begin(ctx: Context, drawn: Sequence[Prompt], keys: Sequence[Key]) -> list[Start]:
        """The starts, as many as the budget lets the guide make."""
        led = [k.uniform() < share for k in keys]
        if guide == GIVEN:
            said = [demonstration(ctx.engine, task, p) if on else None for p, on in zip(drawn, led, strict=True)]
        else:
            asked = [Start(p) for p, on in zip(drawn, led, strict=True) if on]
            made = iter(branch(ctx, asked, 1, Decoder(longest), "guide", guide))
            said = []
            for on in led:
                found = next(made, None) if on else None
                if on and found is None:
                    break
                said.append(found.responses[0] if found else None)
        rows = zip(drawn, said, keys, strict=False)
        return [Start(p, tuple(r.ids[: k.integer(len(r.ids), 1)].tolist()) if r else ()) for p, r, k in rows]

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        at = state or 0
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, at)]
        starts = begin(ctx, drawn, [ctx.key / ctx.step / "cut" / (at + j) for j in range(prompts)])
        label = "demonstration" if guide == GIVEN else None
        new = from_starts(ctx, starts, samples, Decoder(longest), at, [label] * len(starts))
        return [*groups, *new], at + len(new)

    return _part(f"rolled_in({prompts} x {samples}, {share:g} begun by {guide})", run, prompts, samples, longest, guide)


def rolled_out(task: Task, prompts: int, samples: int, guide: str, share: float) -> Part:
    """``samples`` responses of the policy to each of ``prompts`` training prompts; each is with probability ``share``
    cut after 1 .. n-1 of its n tokens and finished by the guide, a policy, whose tokens are not trained."""
    split, longest = _checked(task, prompts, samples, guide, share)
    if guide == GIVEN:
        raise ArgumentError(
            f"guide={guide!r}: demonstrations cannot finish what the policy began; name a policy, such as 'base', "
            "or let the guide begin (rolled_in)"
        )

    def bound(ctx: Context, prompt: Prompt) -> Cost:
        n = len(prompt.ids or ())
        own, begun = ctx.engine.bound(n, samples, longest, True, 0, 0), n + longest
        ends = ctx.engine.bound(begun, 1, longest, True, 0, 0).times(samples)
        return own + ends + ctx.bound(begun, samples, longest, False)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        at, decoder = state or 0, Decoder(longest)
        drawn = [ctx.engine.encode(split[i]) for i in take(ctx, len(split), prompts, at)]
        fits = ctx.reserve([bound(ctx, p) for p in drawn])
        keys = [ctx.key / ctx.step / (at + j) for j in range(fits)]
        own = ctx.engine.sample(drawn[:fits], samples, decoder, keys) if fits else []
        each = [(j, i, r) for j, g in enumerate(own) for i, r in enumerate(g.responses)]
        cuts = {(j, i): c for j, i, r in each if (c := _cut(r, keys[j] / "cut" / i, share))}
        begun = [Start(own[j].prompt, tuple(own[j].responses[i].ids[:c].tolist())) for (j, i), c in cuts.items()]
        later = [keys[j] / "guide" / i for j, i in cuts]
        ended = ctx.engine.sample([extended(s) for s in begun], 1, decoder, later, guide) if cuts else []
        tails = {place: g.responses[0] for place, g in zip(cuts, ended, strict=True)}
        whole = {(j, i): _joined(ctx, r, cuts[j, i], tails[j, i]) if (j, i) in cuts else r for j, i, r in each}
        new = [replace(g, responses=tuple(whole[j, i] for i in range(samples))) for j, g in enumerate(own)]
        return [*groups, *new], at + fits

    name = f"rolled_out({prompts} x {samples}, {share:g} finished by {guide})"
    return _part(name, run, prompts, samples, longest, guide)


def _cut(response: Response, key: Key, share: float) -> int:
    """Tokens that the policy keeps; 0: all are its own."""
    n = len(response.ids)
    return 1 + key.integer(n - 1, 1) if n > 1 and key.uniform() < share else 0


def _joined(ctx: Context, own: Response, cut: int, tail: Response) -> Response:
    assert own.logprobs is not None and tail.logprobs is not None
    ids = np.concatenate([own.ids[:cut], tail.ids])
    return replace(
        own,
        ids=ids,
        logprobs=np.concatenate([own.logprobs[:cut], tail.logprobs]),
        trained=np.arange(len(ids)) < cut,
        segment=(np.arange(len(ids)) >= cut).astype(np.int32),
        text=ctx.engine.decode(ids.tolist()),
        stop=tail.stop,
    )


def _checked(task: Task, prompts: int, samples: int, guide: str, share: float) -> tuple[Sequence[Prompt], int]:
    positive(prompts=prompts, samples=samples)
    if not 0 <= share <= 1:
        raise ArgumentError(f"share={share:g}: how often a guide takes part; expected a number in [0, 1]")
    if guide == GIVEN:
        require(task, "demonstrations", task.demonstrate, "a guide")
    return train_split(task), task.max_new_tokens


def _part(name: str, run: Run, prompts: int, samples: int, longest: int, guide: str) -> Part:
    needs = frozenset({GIVEN if guide == GIVEN else f"policy:{guide}"})
    sizes = {"prompts": prompts, "samples": samples, "tokens": longest} | ({} if guide == GIVEN else {"further": 1})
    return Part(name, run, needs, frozenset({"prompts", "responses"}), frozenset({"generated_tokens"}), sizes)
