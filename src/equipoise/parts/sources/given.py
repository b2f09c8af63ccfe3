"""Demonstrations and preference pairs from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.sources.draws import cost, take, train_split
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import Cost, Group, Prompt, Task


def demonstrations(task: Task, prompts: int) -> Part:
    """``prompts`` training prompts, each with its demonstration: groups of one. One label each time shown."""
    positive(prompts=prompts)
    require(task, "demonstrations", task.demonstrate, "supervised fine-tuning")
    split = train_split(task)

    def build(ctx: Context, prompt: Prompt) -> Group:
        return shown(ctx.engine, task, ctx.engine.encode(prompt))

    return _given(f"demonstrations({prompts})", split, prompts, build, "demonstration", "demonstrations")


def shown(engine: Engine, task: Task, prompt: Prompt) -> Group:
    """An encoded prompt with its demonstration. Raises ArgumentError where there is none."""
    reply = task.demonstrate(prompt) if task.demonstrate else None
    if reply is None:
        raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has no demonstration")
    return Group(prompt, (engine.encode_reply(prompt, reply, "demonstration"),))


def pairs(task: Task, prompts: int) -> Part:
    """``prompts`` preference pairs from the data: groups of two, the preferred one first."""
    positive(prompts=prompts)
    require(task, "preference pairs", task.pair, "learning from given pairs")
    split = train_split(task)

    def build(ctx: Context, prompt: Prompt) -> Group:
        encoded = ctx.engine.encode(prompt)
        both = task.pair(prompt) if task.pair else None
        if both is None:
            raise ArgumentError(f"prompt {prompt.id!r} of {task.name!r} has no pair")
        return Group(encoded, tuple(ctx.engine.encode_reply(encoded, reply, "pair") for reply in both))

    return _given(f"pairs({prompts})", split, prompts, build, "preference", "pairs")


def _given(
    name: str, split: Sequence[Prompt], size: int, build: Callable[[Context, Prompt], Group], label: str, what: str
) -> Part:
    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        built = [build(ctx, split[i]) for i in take(ctx, len(split), size, start)]
        fits = ctx.reserve([cost(ctx, g) + Cost(labels={label: 1}) for g in built])
        return [*groups, *built[:fits]], start + fits

    gives = frozenset({"prompts", "responses"})
    return Part(name, run, frozenset({what}), gives, spends=frozenset({"labels"}), sizes={"prompts": size})
