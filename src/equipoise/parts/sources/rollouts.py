"""Responses of the current policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive
from equipoise.parts.sources.draws import take, train_split
from equipoise.protocols import Context, Part, State
from equipoise.types import Decoder, Group, Prompt, Task


def sampled(
    task: Task,
    prompts: int,
    samples: int,
    temperature: float = 1.0,
    *,
    policy: str = "current",
    among: Callable[[Context], Sequence[Prompt]] | None = None,
    stop: tuple[str, ...] = (),
) -> Part:
    """``samples`` responses of a policy, the current one by default, to each of ``prompts`` training prompts.
    ``among``: the prompts to draw from, instead of the whole split. ``stop``: what else ends a response.

    Truncating samplers have no place here: the policy that is trained must be the one that sampled."""
    positive(prompts=prompts, samples=samples)
    if temperature <= 0:
        raise ArgumentError(f"temperature={temperature}: training samples need a temperature above 0")
    decoder = Decoder(task.max_new_tokens, temperature, stop=stop)
    split = train_split(task)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start, pool = state or 0, split if among is None else among(ctx)
        drawn = [ctx.engine.encode(pool[i]) for i in take(ctx, len(pool), prompts, start)] if len(pool) else []
        fits = ctx.reserve([ctx.bound(len(p.ids or ()), samples, task.max_new_tokens, True) for p in drawn])
        keys = [ctx.key / ctx.step / (start + j) for j in range(fits)]
        new = ctx.engine.sample(drawn[:fits], samples, decoder, keys, policy) if fits else []
        return [*groups, *new], start + fits

    needs = frozenset[str]() if policy == "current" else frozenset({f"policy:{policy}"})
    sizes = {"prompts": prompts, "samples": samples, "tokens": task.max_new_tokens}
    gives = frozenset({"prompts", "responses"})
    who = "" if policy == "current" else f" by {policy}"
    name = f"sampled({prompts} x {samples}{who})"
    return Part(name, run, needs, gives, frozenset({"generated_tokens"}), sizes)


def refill(draw: Part, signal: Part | None, keep: Part, rounds: int) -> Part:
    """Draw, score and filter again until as many groups are kept as one draw makes, or ``rounds`` draws are made.

    Every draw is charged. ``signal`` None: ``draw`` scores already. DAPO, 2503.14476, calls it dynamic sampling."""
    positive(rounds=rounds)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        inner, kept, wanted = list(state or [None, None, None]), list[Group](), None
        for turn in range(rounds):
            drawn, inner[0] = draw(ctx.at(f"round {turn}") if turn else ctx, [], inner[0])
            wanted = len(drawn) if wanted is None else wanted
            scored, inner[1] = signal(ctx, drawn, inner[1]) if signal else (drawn, None)
            passed, inner[2] = keep(ctx, scored, inner[2])
            room = wanted - len(kept)
            kept += passed[:room]
            ctx.dropped.extend(passed[room:])  # surplus of the last round
            if not drawn or len(kept) >= wanted:
                break
        return [*groups, *kept], inner

    both, sizes = chain_gives(draw, *([signal] if signal else []), keep), {**draw.sizes, "rounds": rounds}
    return Part(f"refill({draw.name}, {keep.name}, {rounds})", run, gives=both, spends=draw.spends, sizes=sizes)


def chain_gives(*parts: Part) -> frozenset[str]:
    """All that the parts give together."""
    return frozenset().union(*(p.gives for p in parts))
