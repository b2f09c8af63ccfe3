"""Eight prompts before the budget is spent: does this task give this model anything to learn from? Charged.

Each fault has a name, with which it can be allowed: truncated, unparsed, equal, no_eos.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from equipoise import recipes
from equipoise.errors import PreflightStop, UnknownName
from equipoise.keys import Key
from equipoise.protocols import Engine
from equipoise.recipe import Recipe
from equipoise.types import FAILED, Cost, Decoder, Group, Prompt, Reply, Response, Score, Task

PROMPTS = 8
SHARE = 0.9
FAULTS = ("truncated", "unparsed", "equal", "no_eos")
ALLOWED = (*FAULTS, "world")  # world: resume under other threads or versions
GIVEN = {"demonstrations": "demonstration", "pairs": "reply of a pair"}

Fault = tuple[str, str]  # its name; its cause and how to mend it
Scored = Sequence[tuple[Response, Score]]


def samples_of(recipe: Recipe) -> int:
    """Samples a prompt of the recipe's first sampling stream; 0 if it never samples, or learns from given replies
    before it does: then the start model's samples do not tell what it will have to learn from."""
    for stage in recipe.stages:
        if n := next((n for s in stage.streams if (n := s.source.sizes.get("samples", 0))), 0):
            return n
        if any(GIVEN.keys() & s.needs for s in stage.streams):
            return 0
    return 0


def bounds(recipe: Recipe, task: Task, engine: Engine) -> list[Cost]:
    """The most that the preflight can cost, a prompt at a time."""
    n = samples_of(recipe)
    prompts = [engine.encode(p) for p in task.splits["train"][:PROMPTS]] if n else []
    return [engine.bound(len(p.ids or ()), n, task.max_new_tokens, True, 0, 0) for p in prompts]


def preflight(
    recipe: Recipe,
    task: Task,
    engine: Engine,
    key: Key,
    judge: Callable[[list[Group]], list[Group]],
    flags: Collection[str] = (),
) -> tuple[list[Group], list[Fault]]:
    """Sample the first training prompts, look at given replies: the groups, and what is wrong. Only a method that goes
    by the task's verdicts has its samples judged.

    ``flags``: what the method and the task can be told; no other is advised."""
    n = samples_of(recipe)
    groups: list[Group] = []
    if n:
        prompts = [engine.encode(p) for p in task.splits["train"][:PROMPTS]]
        keys = [key / "preflight" / i for i in range(len(prompts))]
        groups = engine.sample(prompts, n, Decoder(task.max_new_tokens), keys)
        needs = recipes.method(recipe.name).about.needs
        if task.verify is not None and any("verifier" in need for need in needs):
            groups = judge(groups)
    return groups, _sampled_faults(groups, task, flags) + _given_faults(recipe, task, engine)


def _sampled_faults(groups: list[Group], task: Task, flags: Collection[str]) -> list[Fault]:
    pairs = [(r, s) for g in groups for r, s in zip(g.responses, g.scores, strict=False) if s.status not in FAILED]
    if pairs:
        found = [_truncated([r for r, _ in pairs], task, flags), _unparsed(pairs), _equal(groups, pairs, flags)]
    else:
        unjudged = [r for g in groups if not g.scores for r in g.responses]
        found = [_truncated(unjudged, task, flags)] if unjudged else []
    return [fault for fault in found if fault]


def _truncated(responses: Sequence[Response], task: Task, flags: Collection[str]) -> Fault | None:
    cut = sum(r.stop == "length" for r in responses) / len(responses)
    if cut <= SHARE:
        return None
    longer = "Raise --task.max-new-tokens, or start" if "task.max-new-tokens" in flags else "Start"
    return (
        "truncated",
        f"{cut:.0%} of {len(responses)} responses reached {task.max_new_tokens} tokens without ending: cut off, they "
        f"are wrong, and say nothing of how to end. {longer} from a model that ends its answers (sft first).",
    )


def _unparsed(pairs: Scored) -> Fault | None:
    share = sum(s.status == "unparsed" for _, s in pairs) / len(pairs)
    if share <= SHARE:
        return None
    return (
        "unparsed",
        f"the verifier found no answer in {share:.0%} of {len(pairs)} responses. Show the format in the prompt, teach "
        "it first (sft), or choose a more lenient verifier.",
    )


def _equal(groups: Sequence[Group], pairs: Scored, flags: Collection[str]) -> Fault | None:
    """One sample a prompt is compared with nothing, so that there is nothing to find."""
    n = len(groups[0].responses)
    if n < 2 or any(len({s.value for s in g.scores if s.status not in FAILED}) > 1 for g in groups):
        return None
    mean = sum(s.value for _, s in pairs) / len(pairs)
    ways = [
        "a task that the model sometimes solves" + (" (--task.difficulty)" if "task.difficulty" in flags else ""),
        *(["more --samples"] if "samples" in flags else []),
        "sft first",
    ]
    return (
        "equal",
        f"in none of {len(groups)} prompts did the {n} samples' rewards differ (mean reward {mean:.3g}), so there is "
        f"nothing to compare. Choose {', '.join(ways[:-1])} or {ways[-1]}.",
    )


def _given_faults(recipe: Recipe, task: Task, engine: Engine) -> list[Fault]:
    """Replies of the data that the method shows: does any of a kind train an end token?"""
    shown = {what for stage in recipe.stages for s in stage.streams for what in GIVEN.keys() & s.needs}
    faults: list[Fault] = []
    for what in sorted(shown):
        replies = [r for prompt in task.splits["train"][:PROMPTS] for r in _replies(task, engine, prompt, what)]
        if replies and not any(int(i) in engine.info.eos for r in replies for i in r.ids[r.trained]):
            faults.append(
                (
                    "no_eos",
                    f"no {GIVEN[what]} trains an end token, so the model would never learn to stop. Look at the chat "
                    "template with `equipoise data check`.",
                )
            )
    return faults


def _replies(task: Task, engine: Engine, prompt: Prompt, what: str) -> list[Response]:
    given: Sequence[Reply | None] | None
    if what == "pairs":
        given = task.pair(prompt) if task.pair else None
    else:
        given = (task.demonstrate(prompt),) if task.demonstrate else None
    encoded = engine.encode(prompt)
    return [engine.encode_reply(encoded, reply, "demonstration") for reply in given or () if reply is not None]


def known(allowed: Collection[str]) -> None:
    """Raise UnknownName for an allowed fault that is none."""
    for name in allowed:
        if name not in ALLOWED:
            raise UnknownName("fault to --allow", name, ALLOWED)


def check(faults: Sequence[Fault], allowed: Collection[str], folder: Path) -> None:
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
