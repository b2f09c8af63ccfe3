"""Invariant 5: no budget is exceeded, everything is charged once, what is left is reported."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from equipoise import recipes
from equipoise.budget import Budget, Ledger, Prices, amounts, journalled
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import BudgetError
from equipoise.keys import Key
from equipoise.run.loop import Schedule
from equipoise.types import Cost, Group, Score


def test_fraction_is_the_largest_and_money_comes_from_prices() -> None:
    prices = Prices(flop=1e-6, demonstration=0.5)
    ledger = Ledger(Budget(flops=1000.0, usd=2.0, labels=10), prices)
    ledger.charge("x", Cost(flops=100.0, labels={"demonstration": 2}))
    assert ledger.fraction() == pytest.approx((1e-4 + 1.0) / 2)
    assert ledger.unspent() == {"flops": 900.0, "usd": pytest.approx(0.9999), "labels": 8}


def test_reserving_takes_the_longest_prefix_that_fits_and_settling_gives_back() -> None:
    ledger = Ledger(Budget(generated_tokens=100))
    assert ledger.reserve([Cost(generated_tokens=40)] * 3)[0] == 2
    assert ledger.spent.generated_tokens == 80
    ledger.settle({"sampling": Cost(generated_tokens=50)})
    assert ledger.spent.generated_tokens == 50 and ledger.by.keys() == {"sampling"}
    ledger.ceiling = 0.8
    assert ledger.reserve([Cost(generated_tokens=40)])[0] == 0


def test_draws_for_later_steps_see_what_those_before_them_reserved_and_nothing_later() -> None:
    ledger, forty = Ledger(Budget(generated_tokens=100)), Cost(generated_tokens=40)
    first, second = ledger.advance(1), ledger.advance(2)
    ledger.charge("training", Cost(generated_tokens=15))  # after both were begun: they do not see it
    assert first.reserve([forty] * 3)[0] == 2
    assert second.reserve([forty])[0] == 0 and second.reserve([Cost(generated_tokens=20)])[0] == 1
    assert ledger.reserve([Cost(generated_tokens=1)])[0] == 0  # 15 spent, 80 and 20 on their way
    assert ledger.spent.generated_tokens == 15 and first.fraction() == 0.0
    ledger.join(first)
    assert ledger.by["reserved"].generated_tokens == 80 and ledger.advances == [second]
    ledger.settle({"sampling": Cost(generated_tokens=30)})
    ledger.join(second)
    assert ledger.spent.generated_tokens == 65 and second.earlier == ()  # no chain of all that ever were


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan")])
def test_a_budget_must_be_a_positive_number(limit: float) -> None:
    with pytest.raises(BudgetError, match=r"--budget\.generated-tokens.*above 0"):
        Budget(generated_tokens=limit)  # type: ignore[arg-type]


def test_the_journal_adds_up_and_names_what_a_crash_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with path.open("a") as file:
        ledger = Ledger(Budget(generated_tokens=100), file=file)
        ledger.reserve([Cost(generated_tokens=40)])
        ledger.settle({"sampling": Cost(generated_tokens=30)})
        state = json.loads(json.dumps(ledger.state()))
        ledger.reserve([Cost(generated_tokens=40)])  # killed here: 40 were charged and are redone
    with path.open("a") as file:
        file.write('{"step": 1, "event": "cha')  # a torn line
    assert journalled(path)[0].generated_tokens == 70
    again = Ledger(Budget(generated_tokens=100), file=io.StringIO())
    again.restore(state)
    again.book_lost(journalled(path)[0])
    assert again.spent.generated_tokens == 30 and again.lost.generated_tokens == 40


UNITS = {"generated_tokens": 900, "trained_tokens": 700, "flops": 30_000.0, "usd": 3e-14, "labels": 37}


@pytest.mark.parametrize("method", recipes.names())
@pytest.mark.parametrize("unit", UNITS)
def test_no_method_exceeds_a_budget_and_what_was_spent_was_charged(method: str, unit: str, tmp_path: Path) -> None:
    made = toy.recipe(method)
    if unit not in made.spends:
        return
    price = Prices(demonstration=1e-15, preference=1e-15) if unit == "usd" else Prices()
    loop = toy.loop(tmp_path / "run", method, Budget(**{unit: UNITS[unit]}))
    loop.ledger.prices = price
    loop.run()
    spent = amounts(loop.ledger.spent, price)
    assert 0 < spent[unit] <= UNITS[unit]
    metered = loop.engine.spent()
    assert loop.ledger.spent.generated_tokens == metered.generated_tokens
    assert loop.ledger.spent.trained_tokens == metered.trained_tokens
    assert loop.ledger.spent.flops == pytest.approx(metered.flops)
    assert journalled(tmp_path / "run" / "ledger.jsonl")[0].flops == pytest.approx(metered.flops)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(30, 600), flops=st.floats(500, 20_000), prompts=st.integers(1, 9), samples=st.integers(2, 6))
def test_the_last_steps_shrink_to_what_fits(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, flops: float, prompts: int, samples: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "run"
    budget = Budget(generated_tokens=tokens, flops=flops)
    loop = toy.loop(path, "grpo", budget, arguments={"prompts": prompts, "samples": samples})
    loop.run()
    assert loop.ledger.spent.generated_tokens <= tokens and loop.ledger.spent.flops <= flops
    # nothing that would still have fitted was left: one more group is the smallest step
    one = loop.engine.bound(1, samples, 3, True, 0, 1)
    left = loop.ledger.unspent()
    assert one.generated_tokens > left["generated_tokens"] or one.flops > left["flops"]


def test_a_limit_that_is_no_longer_spent_ends_the_run(tmp_path: Path) -> None:
    hopeless = dataclasses.replace(toy.TASK, verify=lambda ps, ts: [Score(0.0, "wrong") for _ in ts])
    loop = toy.loop(tmp_path / "run", "grpo", Budget(trained_tokens=100), task=hopeless)
    assert loop.run().startswith("stalled")


def test_the_first_of_several_limits_stops_and_the_clock_is_the_largest_fraction(tmp_path: Path) -> None:
    limits = {"generated_tokens": 600.0, "trained_tokens": 450.0, "flops": 9_000.0}
    for first in limits:  # each in turn is made the tight one
        tight = {unit: limit if unit == first else 20 * limit for unit, limit in limits.items()}
        loop = toy.loop(tmp_path / first, "grpo", Budget(**tight))  # type: ignore[arg-type]
        assert loop.run() == "budget spent"
        shares = {u: amounts(loop.ledger.spent, loop.ledger.prices)[u] / limit for u, limit in tight.items()}
        assert shares[first] > 0.7 and all(share < 0.2 for u, share in shares.items() if u != first)
        lines = loop.folder.lines("metrics.jsonl")
        assert len(lines) > 3
        for before, line in zip([{"fraction": 0.0}, *lines], lines, strict=False):
            assert line["fraction"] == pytest.approx(max(line[f"spent/{u}"] / limit for u, limit in tight.items()))
            if "lr" in line:  # of the share that was spent when the step began
                stage = loop.recipe.stages[0]
                assert line["lr"] == pytest.approx(stage.lr.lr(before["fraction"], loop.engine.info))


class Slow(TabularEngine):
    """Really takes time: ``pause(call)`` seconds for each draw."""

    pause: Callable[[int], float]
    calls = 0

    def sample(self, *args: Any, **kwargs: Any) -> list[Group]:
        self.calls += 1
        time.sleep(self.pause(self.calls))
        return super().sample(*args, **kwargs)


PAUSES: dict[str, Callable[[int], float]] = {
    "even": lambda call: 0.27,
    "growing": lambda call: 0.03 * 1.1**call,
    "a leap": lambda call: 0.5 if call == 6 else 0.04,
}


@pytest.mark.parametrize("pauses", PAUSES)
@pytest.mark.parametrize("points", [0, 3])
def test_seconds_are_exceeded_by_no_more_than_was_not_foreseen(pauses: str, points: int, tmp_path: Path) -> None:
    limit, engine = 2.0, Slow(len(toy.PROMPTS), 4, 3)
    engine.pause = PAUSES[pauses]

    def evaluate(key: Key) -> dict[str, float]:
        time.sleep(0.06)
        return {"x": 1.0}

    schedule = Schedule(points, Cost(), evaluate) if points else None
    loop = toy.loop(tmp_path / "run", "grpo", Budget(seconds=limit), engine=engine, evaluation=schedule)
    loop.ledger.start_clock()
    assert loop.run() == "budget spent"
    over = loop.ledger.spent.seconds - limit
    laps = loop.folder.lines("timings.jsonl")
    steps = [
        sum(v for k, v in lap.items() if k.endswith("_s") and k != "evaluate_s") for lap in laps if "train_s" in lap
    ]
    tests = [lap["evaluate_s"] for lap in laps if lap["evaluate_s"] > 0.05]
    assert over <= _unforeseen(steps) + _unforeseen(tests) + 0.1  # files and checkpoints beside the steps
    assert len(steps) >= 4 and over > -0.6 * limit
    assert bool(tests) == bool(points)


def _unforeseen(seconds: list[float]) -> float:
    """How much the last took beyond 1.25 times the longest before it."""
    return max(0.0, seconds[-1] - 1.25 * max(seconds[:-1])) if len(seconds) > 1 else sum(seconds)
