"""Tasks that are asked again: every attempt judged alone, in evaluations as in their stored tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from equipoise import tasks
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.evaluate import evaluate, read, write
from equipoise.evaluate.estimators import difference_interval, estimates, item_values, items_of, share_interval
from equipoise.evaluate.table import items_of_rows
from equipoise.keys import Key
from equipoise.parts.sources.attempts import question
from equipoise.types import Again, Group, Prompt, Score

AGAIN = dataclasses.replace(toy.TASK, again=Again("3"))


def talker(seed: int = 0) -> TabularEngine:
    init = torch.randn(6, 40, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TabularEngine(6, 4, 4, init=init)


def attempts(*pairs: tuple[float, float], cut: bool = False) -> Group:
    """Conversations with these verdicts on two attempts; ``cut``: the second one was truncated."""
    scores = tuple(
        Score(b, "right" if b else "wrong", parts={"turn1/right": a, "turn2/right": b, "other": 1.0}) for a, b in pairs
    )
    responses = tuple(toy.response([1, 0], stop="length" if cut else "eos") for _ in pairs)
    return Group(toy.PROMPTS[0], responses, scores)


def test_metrics_of_attempts_by_hand() -> None:
    values = item_values(items_of([attempts((0, 1), (0, 1), (1, 0), (1, 1)), attempts((1, 0), (0, 0))]))
    for name, expected in {
        "turn1/pass@1": [0.5, 0.5], "turn2/pass@1": [0.75, 0.0], "turn2/delta": [0.25, -0.5],
        "turn2/wrong_to_right": [0.5, 0.0], "turn2/right_to_wrong": [0.25, 0.5], "pass@1": [0.75, 0.0],
    }.items():  # fmt: skip
        np.testing.assert_allclose(values[name], expected, err_msg=name)
    assert "turn1/delta" not in values and "parts/turn1/right" not in values and "parts/other" in values


def test_a_truncated_last_attempt_leaves_the_first_its_verdict() -> None:
    values = item_values(items_of([attempts((1, 0), (1, 0), cut=True)] * 2))
    assert list(values["turn1/pass@1"]) == [1, 1] and list(values["turn2/delta"]) == [-1, -1]


def test_the_interval_of_a_difference_is_that_of_a_share_stretched() -> None:
    x = np.array([-1.0, 0.0, 0.5, 1.0, 0.0])
    e, half = difference_interval(x), share_interval((x + 1) / 2)
    assert (e.value, e.low, e.high) == pytest.approx((0.1, 2 * half.low - 1, 2 * half.high - 1))
    assert estimates([attempts((0, 1), (1, 1))] * 2)["turn2/delta"].value == pytest.approx(0.5)


def test_first_attempts_are_the_replies_of_the_task_within_and_tables_agree(tmp_path: Path) -> None:
    """The same keys draw the same first replies; what is stored gives the same metrics again."""
    both = [evaluate(talker(), t, "test", 6, 8, Key((1,))) for t in (toy.TASK, AGAIN)]
    single, found = (e.metrics for e in both)
    starts = [[r.ids[: len(s.ids)].tolist() == s.ids.tolist() for r, s in zip(a.responses, b.responses, strict=True)]
              for a, b in zip(both[1].groups, both[0].groups, strict=True) if a.prompt.id == b.prompt.id]  # fmt: skip
    ended = [[s.ids[-1] == 0 for s in g.responses] for g in both[0].groups]
    assert np.array(starts)[np.array(ended)].all() and np.any(ended)
    assert found["turn1/pass@1"].value <= single["pass@1"].value + 1e-9
    assert found["turn2/pass@1"] == found["pass@1"] and found["turn2/delta"].value == pytest.approx(
        found["turn2/pass@1"].value - found["turn1/pass@1"].value
    )
    assert any(len(np.unique(r.segment)) == 3 for g in both[1].groups for r in g.responses)
    write(both[1].groups, tmp_path / "test.parquet")
    stored, made = items_of_rows(read(tmp_path / "test.parquet")), items_of(both[1].groups)
    for name, x in item_values(stored).items():
        np.testing.assert_allclose(np.sort(x), np.sort(item_values(made)[name]), err_msg=name)


def test_a_failed_verdict_on_one_attempt_leaves_the_conversation_without() -> None:
    def flaky(prompts: list[Prompt], texts: list[str]) -> list[Score]:
        scores = toy.verify(prompts, texts)
        return [Score(0.0, "timeout") if i == 0 else s for i, s in enumerate(scores)]

    found = evaluate(talker(), dataclasses.replace(AGAIN, verify=flaky), "test", 6, 4, Key((1,)))  # type: ignore[arg-type]
    assert found.metrics["failed"].value == 1 and "turn2/pass@1" in found.metrics


def test_the_task_asked_again_is_the_task_within() -> None:
    plain, again = tasks.load("lists"), tasks.load("again:lists", say="Again: {}", attempts=3)
    assert again.again == Again("Again: {}", 3) and again.fingerprint != plain.fingerprint
    assert again.splits["test"][0] == plain.splits["test"][0] and again.max_new_tokens == plain.max_new_tokens
    assert question(again.splits["test"][0]) == plain.splits["test"][0].messages[0]["content"]
    assert "operation" in tasks.signature("again:lists")
    for knobs, said in (({"attempts": 1}, "attempts"), ({"say": " "}, "say is empty")):
        with pytest.raises(ArgumentError, match=said):
            tasks.load("again:lists", **knobs)
    with pytest.raises(ArgumentError, match="more than two attempts"):
        tasks.load("again:again:lists")
