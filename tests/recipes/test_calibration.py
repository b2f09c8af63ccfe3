"""Confidences: read from replies, rewarded by a proper score, measured with ECE, Brier and AUROC."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toy
from equipoise import recipes, tasks
from equipoise.errors import ArgumentError, UnknownName
from equipoise.evaluate.estimators import (
    auroc,
    calibration,
    ece,
    estimates,
    items_of,
    jackknife_interval,
    weighted_vote,
)
from equipoise.parts import credit
from equipoise.parts.credit.calibration import reward
from equipoise.tasks import confident
from equipoise.types import Group, Score


@pytest.mark.parametrize(
    ("text", "reply", "confidence"),
    [
        ("825 70%", "825", 0.7),
        ("1+1=2: 2 (100%).", "1+1=2: 2", 1.0),
        ("two\n 5% \n", "two", 0.05),
        ("825 170%", "825 170%", None),
        ("825", "825", None),
        ("82570%", "82570%", None),
        ("10% 20%", "10%", 0.2),
        ("0%", "", 0.0),
    ],
)
def test_a_trailing_percentage_is_the_confidence(text: str, reply: str, confidence: float | None) -> None:
    assert confident.split(text) == (reply, confidence)


def test_the_wrapped_task_is_judged_without_the_confidence() -> None:
    plain, wrapped = tasks.load("addition", difficulty=2), tasks.load("confident:addition", difficulty=2)
    prompts = wrapped.splits["test"][:50]
    assert [p.id for p in prompts] == [p.id for p in plain.splits["test"][:50]]
    assert wrapped.verify and wrapped.demonstrate and plain.demonstrate
    scores = wrapped.verify(prompts, [str(wrapped.demonstrate(p)) for p in prompts])
    assert all(s.status == "right" for s in scores)
    assert {s.parts["confidence"] for s in scores} <= {k / 10 for k in range(11)} and len(
        {str(s.parts) for s in scores}
    ) > 5
    bare = wrapped.verify(prompts, [str(plain.demonstrate(p)) for p in prompts])
    assert all(s.status == "right" and "confidence" not in s.parts for s in bare)
    assert wrapped.max_new_tokens > plain.max_new_tokens and wrapped.fingerprint != plain.fingerprint


def test_the_wrapper_takes_the_knobs_of_the_task_and_can_ask() -> None:
    assert "difficulty" in tasks.signature("confident:addition") and "ask" in tasks.signature("confident:addition")
    asking = tasks.load("confident:addition", ask="How sure are you?")
    assert str(asking.splits["train"][0].messages[-1]["content"]).endswith("?\nHow sure are you?")
    with pytest.raises(UnknownName, match="dificulty"):
        tasks.load("confident:addition", dificulty=2)
    with pytest.raises(ArgumentError, match="one confidence"):
        tasks.load("confident:confident:addition")


@given(p=st.floats(0, 1), q=st.floats(0, 1))
def test_the_expected_reward_is_greatest_at_the_truth_and_rises_with_it(p: float, q: float) -> None:
    """E[r] = p^2 - (q - p)^2 of the paper's form; the code's is half of 2 + it - (p^2 - p) up to its own constant."""
    paper = p * reward("paper", 1.0, q) + (1 - p) * reward("paper", 0.0, q)
    assert paper == pytest.approx(p**2 - (q - p) ** 2, abs=1e-12)
    code = p * reward("code", 1.0, q) + (1 - p) * reward("code", 0.0, q)
    assert code == pytest.approx(1 + paper / 2, abs=1e-12)


def scored(pairs: list[tuple[bool, float | None]], answers: list[str] | None = None) -> Group:
    scores = tuple(
        Score(float(c), "right" if c else "wrong", parts={} if q is None else {"confidence": q}, answer=a)
        for (c, q), a in zip(pairs, answers or ["x"] * len(pairs), strict=True)
    )
    return Group(dataclasses.replace(toy.PROMPTS[0], ids=(0,)), tuple(toy.response([1, 0]) for _ in pairs), scores)


def test_rewards_without_a_confidence_and_of_truncated_responses_are_the_lowest() -> None:
    group = scored([(True, 0.9), (False, 0.9), (True, None), (False, 0.0)])
    cut = dataclasses.replace(group.responses[3], stop="length")
    group = dataclasses.replace(group, responses=(*group.responses[:3], cut))
    for form, expected in (("paper", [0.99, -0.81, -1.0, -1.0]), ("code", [1.495, 0.595, 0.0, 0.0])):
        (got,), _ = credit.add_brier(form)(None, [group], None)  # type: ignore[arg-type]
        assert [s.value for s in got.scores] == pytest.approx(expected)


def test_a_step_without_any_confidence_names_the_fix() -> None:
    with pytest.raises(ArgumentError, match=r"none of 2 responses states.*--task confident:<task>.*--warm"):
        credit.add_brier()(None, [scored([(True, None), (False, None)])], None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"form='log': expected"):
        credit.add_brier("log")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"warm=1: expected a share"):
        recipes.build("rlcr", toy.TASK, warm=1.0)


def test_calibration_by_hand() -> None:
    q, c = np.array([0.95, 0.95, 0.15, 0.15, 0.15]), np.array([1.0, 0.0, 0.0, 0.0, 1.0])
    assert ece(q, c) == pytest.approx((abs(1 - 1.9) + abs(1 - 0.45)) / 5)
    assert ece(np.array([0.3, 1.0, 0.0]), np.array([0.0, 1.0, 0.0])) == pytest.approx(0.1)
    assert auroc(q, c) == pytest.approx((1.0 + 1.0 + 0.5 + 0.5 + 0.5 + 0.0) / 6)
    assert np.isnan(auroc(q[:1], c[:1]))
    groups = [scored([(True, 0.8), (False, 0.4)]), scored([(False, 0.2), (False, None)])]
    found = estimates(groups)
    assert found["brier"].value == pytest.approx(((0.04 + 0.16) / 2 + 0.04) / 2)
    assert "auroc" not in found  # without the first item there are no right samples
    assert calibration(items_of([scored([(True, None)])] * 3)) == {}


def test_votes_weighted_by_confidence() -> None:
    pairs: list[tuple[bool, float | None]] = [(True, 0.9), (False, 0.4), (False, 0.4)]
    (item,) = items_of([scored(pairs, ["a", "b", "b"])])
    assert weighted_vote(item) == 1.0
    (item,) = items_of([scored([(True, 0.8), *pairs[1:]], ["a", "b", "b"])])
    assert weighted_vote(item) == 0.5  # a tie


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.array([0.2, 0.5, 0.9, 0.4])
    left = np.array([np.delete(x, i).mean() for i in range(4)])
    got = jackknife_interval(float(x.mean()), left)
    assert got.high - got.value == pytest.approx(3.182446 * x.std(ddof=1) / 2, rel=1e-6)
