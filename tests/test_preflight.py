"""What the preflight finds, on the enumerable engine; and that it advises nothing that does not exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import toy
from equipoise.engine.tabular import EOS, TabularEngine
from equipoise.job.preflight import preflight
from equipoise.keys import Key
from equipoise.parts.signals import judge
from equipoise.types import Prompt, Reply, Response, Score, Task

Verify = Callable[[Sequence[Prompt], Sequence[str]], list[Score]]


def found(method: str, task: Task, flags: Sequence[str] = (), engine: Any = None, **arguments: Any) -> dict[str, str]:
    """Faults by name."""
    recipe = toy.recipe(method, task, **arguments)
    engine = engine or toy.engine(recipe.needs)
    return dict(preflight(recipe, task, engine, Key((0,)), lambda groups: judge(task, groups), flags)[1])


def judged(verify: Verify) -> Task:
    return dataclasses.replace(toy.TASK, verify=verify)


ZERO = judged(lambda ps, ts: [Score(0.0, "wrong") for _ in ts])


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert found("grpo", toy.TASK) == {}
    assert found("sft", toy.TASK) == {}


def test_the_start_model_is_not_judged_where_demonstrations_come_before_its_samples() -> None:
    assert found("text2sql_rl", ZERO) == {}
    assert "equal" in found("mix", ZERO)  # side by side with its samples


def test_equal_rewards_are_a_fault_only_of_groups_that_are_compared() -> None:
    assert "mean reward 0" in found("grpo", ZERO)["equal"]
    assert found("ppo", ZERO, samples=1) == {}


def test_only_existing_flags_are_advised() -> None:
    flags = ("task.difficulty", "task.max-new-tokens", "samples")
    equal = found("grpo", ZERO, flags)["equal"]
    assert "--task.difficulty" in equal and "more --samples" in equal
    assert "--" not in found("grpo", ZERO)["equal"]

    short = dataclasses.replace(toy.TASK, max_new_tokens=1)
    never = toy.engine()
    never.weights["logits"].data[..., EOS] = -50.0
    assert "Raise --task.max-new-tokens, or start from" in found("grpo", short, flags, never)["truncated"]
    assert "--task" not in found("grpo", short, (), never)["truncated"]


def test_only_methods_that_go_by_verdicts_ask_for_them() -> None:
    asked: list[str] = []

    def verify(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        asked.extend(texts)
        return [Score(0.0, "unparsed") for _ in texts]

    assert found("em", judged(verify)) == {} and not asked
    assert found("grpo", judged(verify)).keys() == {"equal", "unparsed"} and asked
    silent = dataclasses.replace(toy.TASK, verify=None)
    assert found("em", silent) == {}
    never = toy.engine()
    never.weights["logits"].data[..., EOS] = -50.0
    assert found("em", dataclasses.replace(silent, max_new_tokens=1), engine=never).keys() == {"truncated"}


class Endless(TabularEngine):
    """As with a chat template that puts no end token after a turn."""

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        full = super().encode_reply(prompt, reply, origin)
        return toy.response([int(i) for i in full.ids if i != EOS], trained=np.ones(1, dtype=bool))


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        ("sft", {"demonstrate": lambda p: toy.wanted(p)}, "no demonstration trains"),
        ("dpo", {"demonstrate": None, "pair": lambda p: (toy.wanted(p), "1")}, "no reply of a pair trains"),
    ],
)
def test_replies_must_train_an_end_token(method: str, given: dict[str, Any], named: str) -> None:
    task = dataclasses.replace(toy.TASK, **given)
    assert found(method, task) == {}
    endless = Endless(len(toy.PROMPTS), 4, 3)
    assert named in found(method, task, engine=endless)["no_eos"]
