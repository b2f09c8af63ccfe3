"""Eight prompts before the budget is spent: does this task give this model anything to learn from? Charged.

Each fault has a name, with which it can be allowed: truncated, unparsed, equal, no_eos.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from equipoise.errors import PreflightStop, UnknownName
from equipoise.keys import Key
from equipoise.protocols import Engine
from equipoise.recipe import Recipe
from equipoise.types import FAILED, Cost, Decoder, Group, Task

PROMPTS = 8
SHARE = 0.9
FAULTS = ("truncated", "unparsed", "equal", "no_eos")
ALLOWED = (*FAULTS, "world")  # world: resume under other threads or versions


def samples_of(recipe: Recipe) -> int:
    """Samples a prompt of the recipe's first sampling stream; 0 if it never samples."""
    sizes = [s.source.sizes.get("samples", 0) for stage in recipe.stages for s in stage.streams]
    return next((n for n in sizes if n), 0)


def bounds(recipe: Recipe, task: Task, engine: Engine) -> list[Cost]:
    """The most that the preflight can cost, a prompt at a time."""
    n = samples_of(recipe)
    prompts = [engine.encode(p) for p in task.splits["train"][:PROMPTS]] if n else []
    return [engine.bound(len(p.ids or ()), n, task.max_new_tokens, True, 0, 0) for p in prompts]


def preflight(
    recipe: Recipe, task: Task, engine: Engine, key: Key, judge: Callable[[list[Group]], list[Group]]
) -> tuple[list[Group], list[tuple[str, str]]]:
    """Sample and score the first training prompts, look at demonstrations: the groups, and (fault, cause and fix)."""
    n = samples_of(recipe)
    groups: list[Group] = []
    if n:
        prompts = [engine.encode(p) for p in task.splits["train"][:PROMPTS]]
        keys = [key / "preflight" / i for i in range(len(prompts))]
        groups = judge(engine.sample(prompts, n, Decoder(task.max_new_tokens), keys))
    return groups, _sampled_faults(groups, task) + _demonstration_faults(recipe, task, engine)


def _sampled_faults(groups: list[Group], task: Task) -> list[tuple[str, str]]:
    pairs = [(r, s) for g in groups for r, s in zip(g.responses, g.scores, strict=True) if s.status not in FAILED]
    if not pairs:
        return []
    found = []
    cut = sum(r.stop == "length" for r, _ in pairs) / len(pairs)
    if cut > SHARE:
        found.append(
            (
                "truncated",
                f"{cut:.0%} of {len(pairs)} responses reached {task.max_new_tokens} tokens without ending, and a "
                "truncated response is wrong. Raise --task.max-new-tokens, or start from a model that ends its answers "
                "(sft first).",
            )
        )
    unparsed = sum(s.status == "unparsed" for _, s in pairs) / len(pairs)
    if unparsed > SHARE:
        found.append(
            (
                "unparsed",
                f"the verifier found no answer in {unparsed:.0%} of {len(pairs)} responses. Show the format in the "
                "prompt, teach it first (sft), or choose a more lenient verifier.",
            )
        )
    differing = [g for g in groups if len({s.value for s in g.scores if s.status not in FAILED}) > 1]
    if not differing:
        mean = sum(s.value for _, s in pairs) / len(pairs)
        n = len(groups[0].responses)
        found.append(
            (
                "equal",
                f"in none of {len(groups)} prompts did the {n} samples' rewards differ (mean reward {mean:.3g}), so "
                "there is nothing to compare. Choose an easier or harder task (--task.difficulty), more --samples, or "
                "sft first.",
            )
        )
    return found


def _demonstration_faults(recipe: Recipe, task: Task, engine: Engine) -> list[tuple[str, str]]:
    shown = any("labels" in p.spends for stage in recipe.stages for s in stage.streams for p in s.parts)
    if not shown or task.demonstrate is None:
        return []
    replies = []
    for prompt in task.splits["train"][:PROMPTS]:
        encoded, reply = engine.encode(prompt), task.demonstrate(prompt)
        if reply is not None:
            replies.append(engine.encode_reply(encoded, reply, "demonstration"))
    ends = set(engine.info.eos)
    if replies and not any(int(i) in ends for r in replies for i in r.ids[r.trained]):
        return [
            (
                "no_eos",
                "no demonstration trains an end token, so the model would never learn to stop. Look at the chat "
                "template with `equipoise data check`.",
            )
        ]
    return []


def known(allowed: Collection[str]) -> None:
    """Raise UnknownName for an allowed fault that is none."""
    for name in allowed:
        if name not in ALLOWED:
            raise UnknownName("fault to --allow", name, ALLOWED)


def check(faults: list[tuple[str, str]], allowed: Collection[str], folder: Path) -> None:
    """Raise PreflightStop for faults that are not allowed; it says how the run in ``folder`` goes on all the same."""
    stopping = [(name, text) for name, text in faults if name not in allowed]
    if stopping:
        lines = "\n".join(f"  {name}: {text}" for name, text in stopping)
        names = " ".join([*allowed, *(name for name, _ in stopping)])
        raise PreflightStop(
            f"the preflight on {PROMPTS} prompts found:\n{lines}\n"
            f"Nothing was trained. To go on all the same: equipoise resume {folder} --allow {names}\n"
            f"(in a new run: --allow {names})"
        )
