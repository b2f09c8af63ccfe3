"""Events on named weights, and an objective's own denominators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import Event, Recipe, Stage, Stream, average, constant
from equipoise.record.folder import Folder
from equipoise.run.loop import Loop
from equipoise.types import Loss, Objective

BUDGET = Budget(flops=6_000.0)


def recipe(*events: Event, objective: Objective | None = None) -> Recipe:
    stream = Stream(
        source=sources.sampled(toy.TASK, 6, 4),
        signal=signals.verified(toy.TASK),
        credit=credit.leave_one_out(),
        objective=objective or objectives.score_function(),
    )
    return Recipe("one", [Stage([stream], constant(0.5), events=events)], BUDGET)


def run(path: Path, made: Recipe) -> tuple[TabularEngine, list[torch.Tensor]]:
    """The engine after a run, and the policy's logits after every step."""
    folder, engine = Folder(path), toy.engine(made.needs)
    folder.create()
    seen: list[torch.Tensor] = []
    loop = Loop(made, engine, Ledger(BUDGET), folder, 0)
    loop.report = lambda event: seen.append(engine.weights["logits"].detach().clone())
    loop.run()
    return engine, seen


def test_a_moving_average_is_the_weighted_sum_of_the_policies_so_far(tmp_path: Path) -> None:
    rate = 0.25
    engine, seen = run(tmp_path / "run", recipe(average("anchor", rate)))
    wanted = seen[0]  # the start, reported with step 0
    for policy in seen[1:]:
        wanted = (1 - rate) * wanted + rate * policy
    assert len(seen) > 4
    torch.testing.assert_close(engine.named["anchor"]["logits"], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rate", "at"), [(0.0, 0), (1.0, -1)])
def test_rate_0_stays_at_the_start_and_rate_1_is_the_policy(rate: float, at: int, tmp_path: Path) -> None:
    engine, seen = run(tmp_path / "run", recipe(average("anchor", rate)))
    assert torch.equal(engine.named["anchor"]["logits"], seen[at]) and not torch.equal(seen[0], seen[-1])


def test_an_event_comes_every_so_many_steps(tmp_path: Path) -> None:
    engine, seen = run(tmp_path / "run", recipe(Event("kept", {"current": 1.0}, every=3)))
    assert torch.equal(engine.named["kept"]["logits"], seen[(len(seen) - 1) // 3 * 3])


def test_an_event_can_mix_the_start_and_the_base(tmp_path: Path) -> None:
    engine, seen = run(tmp_path / "run", recipe(Event("far", {"current": 2.0, "start": -1.0})))
    torch.testing.assert_close(engine.named["far"]["logits"], 2 * seen[-1] - seen[0], rtol=1e-12, atol=1e-12)


def test_a_policy_that_nothing_keeps_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"no policy is called 'anchor'; there are base, current, start"):
        recipe(objective=objectives.kl("anchor"))
    with pytest.raises(ArgumentError, match="no policy is called 'other'"):
        recipe(objective=Objective(lambda out, batch: Loss(out.logp), "", "", frozenset({"logsumexp:other"})))
    assert recipe(average("anchor", 0.1), objective=objectives.kl("anchor")).needs >= {"policy:anchor"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: average("anchor", 1.5), r"rate=1.5.*\[0, 1\]"),
        (lambda: Event("anchor", {}), "at least 1"),
        (lambda: Event("anchor", {"current": 1.0}, every=0), "at least 1"),
        (lambda: Event("start", {"current": 1.0}), "'start'.*choose another"),
    ],
)
def test_events_that_make_no_sense(make: object, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()  # type: ignore[operator]


def test_totals_of_an_objective_are_fixed_over_the_whole_step() -> None:
    """The same gradient for any micro-batch, divided by what the groups add up to; sums of objectives keep both."""

    def loss(out: object, batch: object) -> Loss:
        return Loss(batch.per_group(batch.per_response(out.logp)) / batch.totals.extra["rewarded"])  # type: ignore[attr-defined]

    one = Objective(loss, "-", "-", totals={"rewarded": lambda g: sum(s.value for s in g.scores)})
    two = Objective(loss, "-", "-", totals={"twos": lambda g: 2.0})
    groups = [toy.group([1.0, 1.0, 0.0], [3, 2, 1]), toy.group([0.0, 1.0], [1, 3])]
    totals = count(groups, (0.5 * one + two).totals)
    assert totals.extra == {"rewarded": 3.0, "twos": 4.0} and count(groups).extra == {}
    grads = []
    for rows in (1, 10**9):
        engine = toy.random_policy(0, vocabulary=3, length=3, rows_tokens=rows)
        engine.backward(groups, one, totals)
        grads.append(engine.gradient())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-14)
    assert np.isclose(float(grads[0].abs().sum()), 1 / 3 * float(_unit(groups).abs().sum()))


def _unit(groups: list) -> torch.Tensor:
    engine = toy.random_policy(0, vocabulary=3, length=3)
    engine.backward(groups, Objective(lambda o, b: Loss(b.per_group(b.per_response(o.logp))), "-", "-"), count(groups))
    return engine.gradient()
