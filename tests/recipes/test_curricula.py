"""Which prompts come next: history resampling, phases by length with replay, one prompt alone."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError, UnknownName
from equipoise.keys import Key
from equipoise.parts import credit, signals, sources
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Cost, Group, Prompt, Score, Task


class Purse:
    """A ledger on which everything fits, at a share that the test sets."""

    spent = 0.0

    def reserve(self, bounds: list[Cost]) -> tuple[int, Cost]:
        return len(bounds), Cost()

    def fraction(self) -> float:
        return self.spent


def context(step: int, purse: Purse | None = None) -> Context:
    return Context(toy.engine(), Key((0,)), purse or Purse(), lambda *_: Cost(), step=step)  # type: ignore[arg-type]


def judged(right: set[str], value: float = 1.0) -> Part:
    """A verdict by prompt: all right or all wrong."""

    def f(group: Group) -> Group:
        ok = group.prompt.id in right
        return dataclasses.replace(
            group, scores=(Score(value * ok, "right" if ok else "wrong"),) * len(group.responses)
        )

    return lift("judged", f)


def draws(part: Part, steps: int, purse: Purse | None = None) -> list[list[str]]:
    """Ids of the prompts of each step; the state goes through JSON in between, as in a resumed run."""
    state: State = None
    seen = []
    for step in range(steps):
        groups, state = part(context(step, purse), [], state)
        state = json.loads(json.dumps(state))
        seen.append([g.prompt.id for g in groups])
    return seen


def weights(loop: Any) -> torch.Tensor:
    assert isinstance(loop.engine, TabularEngine)
    return loop.engine.weights["logits"].detach()


# -- history resampling


@pytest.mark.parametrize("prompts", [1, 4, 6, 9])
def test_while_nothing_is_solved_it_is_uniform_epochs(prompts: int) -> None:
    mine = sources.scheduled(toy.TASK, prompts, 1, judged(set()), sources.without_solved(toy.TASK))
    assert draws(mine, 8) == draws(sources.sampled(toy.TASK, prompts, 1), 8)


def test_its_samples_are_those_of_the_plain_source() -> None:
    mine = sources.scheduled(toy.TASK, 4, 3, judged(set()), sources.without_solved(toy.TASK))
    got, _ = mine(context(0), [], None)
    plain, _ = sources.sampled(toy.TASK, 4, 3)(context(0), [], None)
    assert [[r.key for r in g.responses] for g in got] == [[r.key for r in g.responses] for g in plain]
    assert [[r.text for r in g.responses] for g in got] == [[r.text for r in g.responses] for g in plain]


def test_what_an_epoch_solved_the_next_leaves_out_and_what_it_failed_stays() -> None:
    part = sources.scheduled(toy.TASK, 6, 2, judged({"p1", "p4"}), sources.without_solved(toy.TASK))
    first, second, third = draws(part, 3)
    assert sorted(first) == [f"p{i}" for i in range(6)]
    rest = Counter(second + third)
    assert set(rest) == {"p0", "p2", "p3", "p5"} and set(rest.values()) == {3}


def test_a_step_over_the_end_of_an_epoch_knows_its_own_scores() -> None:
    part = sources.scheduled(toy.TASK, 8, 1, judged({"p0", "p1", "p2", "p3"}), sources.without_solved(toy.TASK))
    (first,) = draws(part, 1)
    assert sorted(first[:6]) == [f"p{i}" for i in range(6)] and sorted(first[6:]) == ["p4", "p5"]


def test_when_all_are_solved_all_come_back() -> None:
    every = {p.id for p in toy.PROMPTS}
    part = sources.scheduled(toy.TASK, 6, 1, judged(every), sources.without_solved(toy.TASK))
    assert [sorted(ids) for ids in draws(part, 3)] == [sorted(every)] * 3


# -- phases by length

LONG = [Prompt(id=f"p{i}", text=str(i).zfill(1 + (5 - i) // 2)) for i in range(6)]  # p4, p5 are the shortest
GRADED: Task = dataclasses.replace(toy.TASK, splits={**toy.TASK.splits, "train": LONG})


def test_phases_are_of_rising_length_and_follow_the_budget() -> None:
    purse = Purse()
    part = sources.scheduled(GRADED, 2, 1, judged(set()), sources.by_length(GRADED, 3, 0.0))
    for share, wanted in ((0.0, {"p4", "p5"}), (0.34, {"p2", "p3"}), (0.67, {"p0", "p1"}), (1.0, {"p0", "p1"})):
        purse.spent = share
        assert set(draws(part, 1, purse)[0]) == wanted


def test_one_phase_is_dapo_bit_by_bit(tmp_path: Path) -> None:
    mine = toy.loop(tmp_path / "one", "qwenlong_l1", Budget(flops=20_000.0), arguments={"phases": 1, "high": 0.28})
    dapo = toy.loop(tmp_path / "dapo", "dapo", Budget(flops=20_000.0))
    mine.run()
    dapo.run()
    assert torch.equal(weights(mine), weights(dapo)) and weights(mine).any()


def test_hard_prompts_come_back_in_proportion_to_the_inverse_of_their_mean_reward() -> None:
    """p4 has mean reward 0.15, p5 0.75; with the floor of 0.05 that is 5 against 1.25."""
    curriculum = sources.by_length(GRADED, 3, 0.5)
    memory = {**curriculum.start, "seen": {"4": [0.3, 2], "5": [0.75, 1]}}
    purse, found = Purse(), Counter[int]()
    purse.spent = 0.5
    for step in range(200):
        chosen, after = curriculum.choose(context(step, purse), 10, memory)
        found.update(chosen)
        assert after["phase"] == 1
    assert found.keys() == {2, 3, 4, 5}
    assert found[2] + found[3] == pytest.approx(1000, abs=90)
    assert found[4] / found[5] == pytest.approx(4.0, rel=0.25)


def test_the_memory_keeps_mean_rewards_and_counts_only_fresh_prompts() -> None:
    curriculum = sources.by_length(GRADED, 3, 0.5)
    memory = {**curriculum.start, "phase": 1, "step": 0}
    half = dataclasses.replace(toy.group([1.0, 0.0]), prompt=LONG[4])
    for i in (4, 2, 4):
        memory = curriculum.learn(memory, i, half)
    assert memory["seen"] == {"4": [1.0, 2], "2": [0.5, 1]} and memory["drawn"] == [0, 1, 0] and memory["count"] == 3


# -- one prompt


def test_copies_of_one_prompt_are_sampled_apart() -> None:
    part = toy.recipe("one_shot_rlvr", prompt="p2", prompts=4, samples=3).stages[0].streams[0].source
    groups, _ = part(context(0), [], None)
    assert [g.prompt.id for g in groups] == ["p2"] * 4
    assert len({r.key for g in groups for r in g.responses}) == 12


def test_the_prompt_with_the_most_variable_pass_rate_is_found() -> None:
    def stored(name: int, *rates: float) -> list[Group]:
        made = [toy.group([1.0] * round(4 * p) + [0.0] * (4 - round(4 * p))) for p in rates]
        return [dataclasses.replace(g, prompt=toy.PROMPTS[name]) for g in made]

    pool = sources.most_variable(toy.TASK, "history")

    def found(*groups: list[Group]) -> list[str]:
        ctx = dataclasses.replace(context(0), stores={"history": [g for some in groups for g in some]})
        return [p.id for p in pool(ctx)]

    assert found(stored(0, 0.5, 0.5), stored(1, 0.0, 1.0), stored(2, 0.25, 0.75)) == ["p1"]
    assert found(stored(0, 0.0), stored(1, 0.25), stored(2, 0.5)) == ["p2"]
    assert found() == []


def test_only_the_prompt_found_is_trained_after_the_pool(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "one_shot_rlvr", Budget(flops=30_000.0), arguments={"kl": 0.0, "entropy": 0.0})
    loop.run()
    moved = [i for i in range(len(toy.PROMPTS)) if weights(loop)[i].any()]
    assert len(moved) == 1
    rates = {
        p.id: [credit.values(g)[0].mean() for g in loop.stores["history"] if g.prompt.id == p.id] for p in toy.PROMPTS
    }
    assert f"p{moved[0]}" == max(rates, key=lambda k: np.var(rates[k]))


def test_format_pays_for_any_answer_and_right_stays_the_verifiers() -> None:
    g = toy.group([1.0, 0.0, 0.0])
    g = dataclasses.replace(g, scores=(*g.scores[:2], Score(0.0, "unparsed")))
    (after,), _ = signals.answered()(context(0), [g], None)
    assert [s.value for s in after.scores] == [1.0, 1.0, 0.0]
    assert [s.status for s in after.scores] == ["right", "wrong", "unparsed"]


def test_a_wrong_label_is_the_answer_of_another_prompt() -> None:
    labelled = [dataclasses.replace(p, answer=i // 2) for i, p in enumerate(toy.PROMPTS)]
    task = dataclasses.replace(toy.TASK, splits={**toy.TASK.splits, "train": labelled})
    (other,) = sources.named(task, "p0", mislabelled=True)(context(0))
    assert other.answer == 1 and other.id == "p0"
    with pytest.raises(ArgumentError, match="different answers"):
        sources.named(toy.TASK, "p0", mislabelled=True)(context(0))


@pytest.mark.parametrize(
    ("method", "arguments", "error", "said"),
    [
        ("qwenlong_l1", {"phases": 0}, ArgumentError, "phases=0.*from 1 to.*6"),
        ("qwenlong_l1", {"phases": 7}, ArgumentError, "phases=7.*from 1 to.*6"),
        ("qwenlong_l1", {"replay": 1.0}, ArgumentError, r"replay=1.*\[0, 1\)"),
        ("srpo", {"pool": -1}, ArgumentError, "pool=-1.*at least 1"),
        ("one_shot_rlvr", {"prompt": "p9"}, UnknownName, "'p9'.*p5"),
        ("one_shot_rlvr", {"pool_share": 1.0}, ArgumentError, r"pool_share=1.*\(0, 1\)"),
    ],
)
def test_arguments_that_make_no_sense(
    method: str, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        toy.recipe(method, **arguments)
