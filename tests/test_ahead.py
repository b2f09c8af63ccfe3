"""Drawing ahead: exact lag, nothing discarded, one result from one thread or two, after a kill, within a budget."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import toy
from equipoise import recipes
from equipoise.budget import Budget, amounts, journalled
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import RecordError
from equipoise.record import exact
from equipoise.record.folder import Folder
from equipoise.run.loop import Loop, Schedule
from equipoise.types import Cost, Group, Note, Prompt, Response, Score

BUDGET = Budget(flops=12_000.0)
SAMPLING = [m for m in recipes.names() if "generated_tokens" in toy.recipe(m).spends]


class Aside(TabularEngine):
    """Samples from a copy of its weights in another thread; ``pauses``: seconds that sampling and learning take."""

    pauses = (0.0, 0.0)

    def snapshot(self, policies: Collection[str] = ()) -> Aside:  # type: ignore[override]
        made = copy.copy(self)
        made.meter = Cost()
        made.weights = {k: w.detach().clone() for k, w in self.weights.items()}
        made.named = {name: {k: w.clone() for k, w in ws.items()} for name, ws in self.named.items()}
        return made

    def sample(self, *args: Any, **kwargs: Any) -> list[Group]:
        time.sleep(self.pauses[0])
        return super().sample(*args, **kwargs)

    def step(self, lr: float) -> dict[str, float]:
        time.sleep(self.pauses[1])
        return super().step(lr)


def aside(method: str, **pauses: Any) -> Aside:
    needs = toy.recipe(method, toy.TASKS.get(method, toy.TASK)).needs
    made = toy.engine(needs, **toy.ENGINES.get(method, {}))
    made.__class__ = Aside
    assert isinstance(made, Aside)
    made.pauses = (pauses.get("sampling", 0.0), pauses.get("learning", 0.0))
    return made


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for p in sorted((path / "rollouts").glob("*.parquet")) for row in pq.read_table(p).to_pylist()]


def logits(loop: Loop) -> torch.Tensor:
    assert isinstance(loop.engine, TabularEngine)
    return loop.engine.weights["logits"].detach()


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_each_step_is_drawn_by_the_policy_of_k_steps_before(ahead: int, tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "reinforce", Budget(flops=60_000.0), ahead=ahead)
    loop.run()
    found = [r for r in rows(tmp_path / "run") if r["use"] == "trained"]
    lags: dict[int, set[int]] = {}
    for r in found:
        lags.setdefault(r["step"], set()).add(r["step"] - 1 - r["version"])  # one update a step
    steps = sorted(lags)
    full = [s for s in steps if sum(r["step"] == s for r in found) == 36]
    assert len(full) > 2 * ahead + 3
    for s in full[: -ahead - 1]:
        assert lags[s] == {min(ahead, s - 1)}
    if ahead:  # a step without gradient is a step and no update: by the note, not by the version
        told = {r["step"]: dict(r["response_notes"])["staleness"] for r in found}
        assert all(told[s] == min(ahead, s - 1) for s in full[: -ahead - 1]) and max(told.values()) <= ahead
        lines = {line["step"]: line for line in loop.folder.lines("metrics.jsonl")}
        assert lines[full[5]]["staleness"] == lines[full[5]]["staleness_max"] == min(ahead, 5)
        assert "mismatch" not in lines[full[5]] and lines[full[5]]["drift"] > 0


def test_prompts_come_in_the_same_order_and_nothing_is_discarded(tmp_path: Path) -> None:
    seen = {}
    for ahead in (0, 3):
        toy.loop(tmp_path / str(ahead), "reinforce", BUDGET, ahead=ahead).run()
        found = rows(tmp_path / str(ahead))
        assert {r["use"] for r in found} <= {"trained", "silent"}
        seen[ahead] = [(r["prompt_id"], r["key"]) for r in found if r["sample"] == 0]
    shorter = min(map(len, seen.values()))
    # Near the end of the budget steps shrink, differently: before that the prompts are the same.
    assert shorter > 20 and [p for p, _ in seen[0]][: shorter - 12] == [p for p, _ in seen[3]][: shorter - 12]
    assert len(set(seen[3])) == len(seen[3])


@pytest.mark.parametrize("method", SAMPLING)
def test_one_thread_or_two_give_the_same_run(method: str, tmp_path: Path) -> None:
    runs = {}
    for name, made in (("inline", None), ("aside", aside(method))):
        runs[name] = toy.loop(tmp_path / name, method, Budget(flops=6_000.0), ahead=2, engine=made)
        runs[name].run()
    assert torch.equal(logits(runs["inline"]), logits(runs["aside"]))
    assert (tmp_path / "inline" / "metrics.jsonl").read_text() == (tmp_path / "aside" / "metrics.jsonl").read_text()
    assert rows(tmp_path / "inline") == rows(tmp_path / "aside")


@pytest.mark.parametrize("late", ["begin", "end"])
def test_no_draw_is_made_while_a_step_draws_for_itself(late: str, tmp_path: Path) -> None:
    """When the budget holds one step but not four, a slow thread must find nothing left to do, at any of its points."""

    class Slow(Aside):
        def spent(self) -> Cost:
            """Asked right before a source is called, and right after."""
            if threading.current_thread() is not threading.main_thread() and late == "begin":
                time.sleep(0.02)
            return super().spent()

    slow = aside("q_sharp", sampling=0.01 if late == "end" else 0.0)
    slow.__class__ = Slow
    for name, made in (("inline", None), ("slow", slow)):
        toy.loop(tmp_path / name, "q_sharp", BUDGET, ahead=3, engine=made).run()
    assert (tmp_path / "inline" / "metrics.jsonl").read_text() == (tmp_path / "slow" / "metrics.jsonl").read_text()
    assert rows(tmp_path / "inline") == rows(tmp_path / "slow")


class Killed(BaseException):
    """Stands for kill -9 at this instant: no handler of the loop sees it."""


@pytest.mark.parametrize("method", ["grpo", "dapo", "ppo", "rft", "brpo", "mix", "rlgf", "q_sharp"])
@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("thread", [False, True])
def test_killed_and_resumed_is_bit_identical(method: str, ahead: int, thread: bool, tmp_path: Path) -> None:
    def made(path: Path, **options: Any) -> Loop:
        engine = aside(method) if thread else None
        return toy.loop(path, method, BUDGET, ahead=ahead, engine=engine, checkpoint_s=0.0, **options)

    whole = made(tmp_path / "whole")
    whole.run()
    first = made(tmp_path / "again")

    def die(event: Any) -> None:
        if event["event"] == "step" and event["step"] >= whole.at.step // 2:
            raise Killed

    first.report = die
    with pytest.raises(Killed):
        first.run()
    ledger = dataclasses.replace(first.ledger, by={}, advances=[])
    engine = aside(method) if thread else toy.engine(first.recipe.needs, **toy.ENGINES.get(method, {}))
    again = Loop(first.recipe, engine, ledger, Folder(tmp_path / "again"), 0, ahead=ahead)
    again.restore()
    again.ledger.book_lost(journalled(tmp_path / "again" / "ledger.jsonl")[0])
    again.run()
    assert torch.equal(logits(whole), logits(again))
    assert (tmp_path / "again" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert rows(tmp_path / "again") == rows(tmp_path / "whole")
    held, lost = journalled(tmp_path / "again" / "ledger.jsonl")
    assert held.flops == pytest.approx(again.ledger.spent.flops) and lost.flops >= 0


@pytest.mark.parametrize("unit, method", [("flops", m) for m in SAMPLING] + [("generated_tokens", "dapo")])
def test_no_budget_is_exceeded_and_all_that_was_spent_was_charged(method: str, unit: str, tmp_path: Path) -> None:
    limit = {"generated_tokens": 900, "flops": 15_000.0}[unit]
    loop = toy.loop(tmp_path / "run", method, Budget(**{unit: limit}), ahead=2)
    loop.run()
    assert 0 < amounts(loop.ledger.spent, loop.ledger.prices)[unit] <= limit
    metered = loop.engine.spent()
    assert loop.ledger.spent.generated_tokens == metered.generated_tokens
    assert loop.ledger.spent.flops == pytest.approx(metered.flops)
    assert journalled(tmp_path / "run" / "ledger.jsonl")[0].flops == pytest.approx(metered.flops)
    assert not loop.ledger.advances and "reserved" not in loop.ledger.by


def test_the_end_of_the_budget_is_used_as_without(tmp_path: Path) -> None:
    """Steps in flight are held against the budget in full; when it no longer holds them, one at a time goes on."""
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, ahead=3)
    assert loop.run() == "budget spent"
    one = loop.engine.bound(1, 6, 3, True, 0, 1)
    assert one.flops > loop.ledger.unspent()["flops"]


@pytest.mark.clocked
def test_sampling_and_learning_overlap(tmp_path: Path) -> None:
    """By the clock: one after the other takes the sum, one step ahead about the longer of the two."""
    pause, steps = 0.08, 8
    seconds = {}
    for ahead in (0, 1):
        engine = aside("reinforce", sampling=pause, learning=pause)
        loop = toy.loop(tmp_path / str(ahead), "reinforce", Budget(flops=1e9), ahead=ahead, engine=engine)
        loop.recipe = dataclasses.replace(loop.recipe, stages=[dataclasses.replace(loop.recipe.stages[0], steps=steps)])
        started = time.monotonic()
        loop.run()
        seconds[ahead] = time.monotonic() - started
        assert loop.at.step == steps
    assert seconds[0] > 2 * steps * pause
    assert seconds[0] - seconds[1] > 0.7 * (steps - 1) * pause


def test_an_evaluation_waits_for_the_draws_so_that_it_is_reserved_the_same_way(tmp_path: Path) -> None:
    lines = {}
    for name, made in (("inline", None), ("aside", aside("grpo", sampling=0.01))):
        bound = Cost(flops=500.0)
        schedule = Schedule(4, bound, lambda key: {"pass@1": 0.5})
        loop = toy.loop(tmp_path / name, "grpo", BUDGET, ahead=2, engine=made, evaluation=schedule)
        loop.run()
        lines[name] = (tmp_path / name / "metrics.jsonl").read_text()
    assert lines["inline"] == lines["aside"] and lines["aside"].count("eval/pass@1") == 4


def test_a_draw_that_fails_is_heard_at_its_step_and_leaves_no_thread(tmp_path: Path) -> None:
    class Broken(Aside):
        def snapshot(self, policies: Collection[str] = ()) -> Broken:  # type: ignore[override]
            made = super().snapshot(policies)
            made.sample = self.fail  # type: ignore[method-assign]
            return made  # type: ignore[return-value]

        def fail(self, *args: Any, **kwargs: Any) -> list[Group]:
            raise RecordError("the sampler is gone")

    engine = aside("grpo")
    engine.__class__ = Broken
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, ahead=1, engine=engine)
    with pytest.raises(RecordError, match="the sampler is gone"):
        loop.run()
    deadline = time.monotonic() + 5
    while any(t.name.startswith("draws") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_groups_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    response = Response(
        np.array([3, 1]), np.array([-0.1, -1 / 3], np.float32), np.array([True, False]), np.zeros(2, np.int32), "a"
    )
    notes = {"x": Note("response", (np.array([[1 / 3, 2.0]]),)), "y": Note("group", (np.array([np.pi]),))}
    prompt = Prompt("p", text="t", answer={"a": (1, 2)}, meta={"k": [1, (2, "z")], "n": np.float64(0.1)}, ids=(1, 2))
    group = Group(prompt, (response,), (Score(0.1 + 0.2, steps=np.array([0.5, 1.0], np.float32)),), notes)
    exact.write(
        tmp_path / "x", {"groups": [group, Group(prompt, ())], "cost": Cost(3, labels={"rating": 2}), "n": None}
    )
    found = exact.read(tmp_path / "x")
    back = found["groups"][0]
    assert back.prompt == prompt and isinstance(back.prompt.meta["k"][1], tuple) and found["groups"][1].responses == ()
    assert back.scores[0].value == 0.1 + 0.2 and found["cost"] == Cost(3, labels={"rating": 2}) and found["n"] is None
    assert back.notes["x"].values[0].shape == (1, 2) and back.notes["y"].level == "group"
    for name in ("ids", "logprobs", "trained", "segment"):
        mine, theirs = getattr(response, name), getattr(back.responses[0], name)
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    (tmp_path / "x.safetensors").write_bytes(b"torn")
    with pytest.raises(RecordError, match="damaged"):
        exact.read(tmp_path / "x")
