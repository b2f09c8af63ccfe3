"""What a step may cost, before any is made."""

from __future__ import annotations

from equipoise.protocols import Engine
from equipoise.recipe import Stream
from equipoise.run.loop import passes
from equipoise.types import Cost, Task

LOOKED_AT = 64  # prompts, to find a long one


def smallest_step(stream: Stream, task: Task, engine: Engine, given: int = 1) -> Cost:
    """The most that a step of a single group can cost; replies that are given have ``given`` tokens."""
    prompt = engine.encode(task.splits["train"][0])
    n, longest, sampled = _group(stream, task, given)
    label = Cost(labels={"demonstration": 1}) if "labels" in stream.source.spends else Cost()
    return engine.bound(len(prompt.ids or ()), n, longest, sampled, *passes(stream)) + label


def largest_step(stream: Stream, task: Task, engine: Engine) -> Cost:
    """The most that a step of full size can cost with the longest of the first prompts and the longest replies.

    By the parts' sizes: "rounds" draws of a group; after each of its responses "further" ones, and "summaries" of it;
    one that is "remembered" beside it; responses "tried" a group. Trained on are those of one round, and summaries.
    """
    sizes = {k: v for part in stream.parts for k, v in part.sizes.items()}
    n, longest, sampled = _group(stream, task, task.max_new_tokens)
    prompt = max(len(engine.encode(p).ids or ()) for p in task.splits["train"][:LOOKED_AT])
    after, rounds, used = prompt + longest, sizes.get("rounds", 1), passes(stream)
    group = engine.bound(prompt, n, longest, sampled, *used)
    group += engine.bound(prompt, n, longest, sampled, 0, 0).times(rounds - 1)
    more = sizes.get("further", 0) * n * rounds + sizes.get("tried", 0)
    group += engine.bound(after, 1, task.max_new_tokens, True, 0, 0).times(more)
    group += engine.bound(after, sizes.get("summaries", 0), longest, True, *used).times(n)
    group += engine.bound(prompt, sizes.get("remembered", 0), longest, False, *used).times(n)
    group += Cost(labels={"demonstration": 1}) if "labels" in stream.source.spends else Cost()
    return group.times(sizes.get("prompts", sizes.get("groups", 1)))


def _group(stream: Stream, task: Task, given: int) -> tuple[int, int, bool]:
    """Responses of a group, tokens of the longest, and whether they are sampled."""
    sizes = stream.source.sizes
    samples = sizes.get("samples", 0)
    n = samples or sizes.get("responses", 2 if stream.objective and stream.objective.scope == "group" else 1)
    return n, sizes.get("tokens", task.max_new_tokens if samples else given), bool(samples)
