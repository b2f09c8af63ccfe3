"""Evaluation: the first items of a split in their fixed order, sampled at temperature 1, verified, estimated.

Tasks without a verifier are evaluated on their held-out replies: nats per trained token, and for pairs how often the
policy gives the preferred reply the higher log-probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from equipoise.errors import ArgumentError, UnknownName
from equipoise.evaluate.attempts import converse
from equipoise.evaluate.estimators import Floats, estimates, ratio_interval, share_interval
from equipoise.evaluate.table import prompt_text, read, rows, write
from equipoise.keys import Key
from equipoise.protocols import Engine
from equipoise.types import Adjust, Decoder, Estimate, Group, Note, Prompt, Score, Split, Task

__all__ = ["Evaluation", "estimates", "evaluate", "prompt_text", "read", "rows", "shortfall", "write"]

CHUNK = 16  # prompts between two calls of on_progress


@dataclass(frozen=True)
class Evaluation:
    """The scored groups of an evaluation and its estimates."""

    task: str
    split: str
    samples: int  # per item; 1 where held-out replies were scored
    groups: tuple[Group, ...]
    metrics: dict[str, Estimate]

    def json(self) -> dict[str, Any]:
        """What ``equipoise eval --json`` prints."""
        numbers = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in self.metrics.items()}
        return {
            "task": self.task,
            "split": self.split,
            "items": len(self.groups),
            "samples": self.samples,
            "metrics": numbers,
        }


def evaluate(
    engine: Engine,
    task: Task,
    split: str,
    items: int,
    samples: int,
    key: Key,
    ks: Sequence[int] = (1,),
    adjust: Adjust | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate the policy on the first ``items`` of ``split`` (all of them when there are fewer).

    A task that is asked again is evaluated over all attempts of a conversation (``evaluate.attempts``).
    Item i draws from ``key / id``, so that neither the number of items nor their order changes a response.
    With ``adjust``, a score has the part "kl": nats by which the adjusted decoder makes its response likelier than the
    policy does, whose mean is the KL of the one from the other.
    ``on_progress(done, total)`` is called as items finish. Raises UnknownName for a split the task lacks and
    ArgumentError for sizes that no estimate can be made from; errors of the engine pass through.
    """
    prompts = _held_out_prompts(task, split, items)
    report = on_progress or (lambda done, total: None)
    if task.verify is None:
        groups, metrics = _replies(engine, task, prompts, report)
        return Evaluation(task.name, split, 1, tuple(groups), metrics)
    if samples < 1 or any(not 1 <= k <= samples for k in ks):
        raise ArgumentError(f"k must lie in 1..samples, got k = {sorted(ks)} with {samples} samples; raise --samples")
    decoder = Decoder(task.max_new_tokens, adjust=adjust)
    groups = []
    for chunk in _chunks(prompts):
        encoded, keys = [engine.encode(p) for p in chunk], [key / p.id for p in chunk]
        if task.again is not None:
            judged = converse(engine, task, encoded, samples, keys, adjust)
        else:
            judged = _verified(task, engine.sample(encoded, samples, decoder, keys))
        groups += _moved(engine, judged) if adjust else judged
        report(len(groups), len(prompts))
    return Evaluation(task.name, split, samples, tuple(groups), estimates(groups, ks))


def shortfall(task: Task, split: str, asked: int) -> str | None:
    """What to say when a split has fewer items than were asked for; None when it has enough, or does not exist."""
    have = len(task.splits[cast(Split, split)]) if split in task.splits else asked
    return f"{split}: {have:,} items, all that the split has ({asked:,} asked)" if have < asked else None


def _held_out_prompts(task: Task, split: str, items: int) -> Sequence[Prompt]:
    if split not in task.splits:
        raise UnknownName("split", split, task.splits)
    prompts = task.splits[cast(Split, split)][:items] if items > 0 else ()
    if len(prompts) < 2:
        raise ArgumentError(
            f"an evaluation with an interval needs at least 2 items, got {len(prompts)}: {items} were asked for and "
            f"the {split} split of {task.name} has {len(task.splits[cast(Split, split)])}"
        )
    return prompts


def _chunks(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    return [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]


def _verified(task: Task, groups: Sequence[Group]) -> list[Group]:
    """Groups with the task's scores, verified in one call."""
    assert task.verify is not None
    prompts = [g.prompt for g in groups for _ in g.responses]
    scores = iter(task.verify(prompts, [r.text for g in groups for r in g.responses]))
    return [replace(g, scores=tuple(next(scores) for _ in g.responses)) for g in groups]


def _moved(engine: Engine, groups: Sequence[Group]) -> list[Group]:
    """Groups that an adjusted decoder drew, with the part "kl"."""
    moved = []
    for group, notes in zip(groups, engine.outputs(groups, ["logp"]), strict=True):
        scores = []
        for r, s, plain in zip(group.responses, group.scores, notes["logp"], strict=True):
            assert r.logprobs is not None  # what is sampled has them
            scores.append(replace(s, parts={**s.parts, "kl": float((r.logprobs - plain)[r.trained].sum())}))
        moved.append(replace(group, scores=tuple(scores)))
    return moved


def _replies(
    engine: Engine, task: Task, prompts: Sequence[Prompt], report: Callable[[int, int], None]
) -> tuple[list[Group], dict[str, Estimate]]:
    """Held-out loss of the replies, and preference accuracy where they come in pairs.

    A group is the pair (preferred first) or the single reply; a score's value is the reply's mean log-probability,
    nats per trained token, and the note "nats" [N] its sum. A prompt without a reply is left out.
    """
    groups: list[Group] = []
    for done, chunk in enumerate(_chunks(prompts), start=1):
        given = [g for p in chunk if (g := _given(engine, task, p)) is not None]
        for group, notes in zip(given, engine.outputs(given, ["logp"]) if given else [], strict=True):
            nats = np.array([float(x.sum()) for x in notes["logp"]])
            lengths = np.array([int(r.trained.sum()) for r in group.responses])
            scores = tuple(Score(float(x / max(n, 1))) for x, n in zip(nats, lengths, strict=True))
            groups.append(replace(group, scores=scores, notes={"nats": Note("response", (nats,))}))
        report(min(done * CHUNK, len(prompts)), len(prompts))
    if len(groups) < 2:
        raise ArgumentError(
            f"task {task.name} has no verifier, and {len(groups)} of its {len(prompts)} held-out prompts have a reply "
            "to compare with; choose a verifier (--task.verifier) or give replies"
        )
    return groups, _reply_metrics(groups)


def _given(engine: Engine, task: Task, prompt: Prompt) -> Group | None:
    pair = task.pair(prompt) if task.pair else None
    reply = task.demonstrate(prompt) if task.demonstrate and pair is None else None
    given = pair if pair is not None else () if reply is None else (reply,)
    if not given:
        return None
    origin = "demonstration" if pair is None else "pair"
    encoded = engine.encode(prompt)
    return Group(encoded, tuple(engine.encode_reply(encoded, r, origin) for r in given))


def _reply_metrics(groups: Sequence[Group]) -> dict[str, Estimate]:
    nats: Floats = np.array([g.notes["nats"].values[0][0] for g in groups], dtype=np.float64)
    tokens = np.array([int(g.responses[0].trained.sum()) for g in groups], dtype=np.float64)
    metrics = {"loss": ratio_interval(-nats, tokens)}
    pairs = [g.notes["nats"].values[0] for g in groups if len(g.responses) == 2]
    if len(pairs) >= 2:
        preferred = np.array([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
        metrics["preference_accuracy"] = share_interval(preferred)
    return metrics
