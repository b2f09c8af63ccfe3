"""Estimators by hand and against brute force, coverage of their intervals, and evaluation by the tabular engine."""

from __future__ import annotations

from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError, RecordError, UnknownName
from equipoise.evaluate import estimates, evaluate, read, rows, write
from equipoise.evaluate.estimators import (
    item_values,
    items_of,
    maj_at_k,
    mean_interval,
    pass_at_k,
    ratio_interval,
    share_interval,
)
from equipoise.evaluate.table import items_of_rows
from equipoise.keys import Key
from equipoise.types import Group, Prompt, Response, Score, Status, Stop, Task


def response(length: int = 3, stop: Stop = "eos", text: str = "") -> Response:
    ids = np.zeros(length, dtype=np.int64)
    return Response(ids, None, np.ones(length, dtype=bool), np.zeros(length, dtype=np.int32), text, stop=stop)


def group(name: str, *samples: tuple[Status, float, Stop], answers: tuple[str | None, ...] = ()) -> Group:
    found = answers or (None,) * len(samples)
    return Group(
        Prompt(name, text=name),
        tuple(response(stop=stop) for _, _, stop in samples),
        tuple(Score(v, s, parts={"p": v}, answer=a) for (s, v, _), a in zip(samples, found, strict=True)),
    )


RIGHT, WRONG = ("right", 1.0, "eos"), ("wrong", 0.0, "eos")


# -- pass@k and maj@k ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    marks = [True] * right + [False] * (n - right)
    share = np.mean([any(subset) for subset in combinations(marks, k)])
    assert pass_at_k(n, right, k) == pytest.approx(share)


def test_pass_at_k_is_unbiased() -> None:
    """The mean of the estimate over binomial draws of n is the chance with k draws, 1 - (1 - p)^k."""
    n, k, p = 7, 3, 0.3
    chance = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chance)) == pytest.approx(1 - (1 - p) ** k)


def majority(subset: list[tuple[str | None, bool]], rate: dict[str, float]) -> float:
    """The chance that a vote of ``subset`` is right, ties by a fair draw."""
    names = [a for a, _ in subset if a is not None]
    if not names:
        return 0.0
    top = max(names.count(a) for a in names)
    tied = [a for a in set(names) if names.count(a) == top]
    return sum(rate[a] for a in tied) / len(tied)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9), st.data())
def test_maj_at_k_is_the_mean_over_all_subsets(answers: list[str | None], data: st.DataObject) -> None:
    right = [a is not None and (a == "a" or (a == "b" and data.draw(st.booleans()))) for a in answers]
    k = data.draw(st.integers(1, len(answers)))
    votes = list(zip(answers, right, strict=True))
    if all(a is None for a in answers):
        assert maj_at_k(answers, right, k) is None
        return
    rate = {a: float(np.mean([ok for b, ok in votes if b == a])) for a in set(answers) if a is not None}
    want = np.mean([majority(list(subset), rate) for subset in combinations(votes, k)])
    assert maj_at_k(answers, right, k) == pytest.approx(want)


def test_maj_at_k_of_many_samples_is_quick_and_exact() -> None:
    answers = [str(i % 7) for i in range(64)]
    value = maj_at_k(answers, [a == "0" for a in answers], 32)
    assert value is not None and 1 / 7 < value < 0.5  # "0" has 10 of 64 votes, no answer has more


def test_ties_count_their_expectation() -> None:
    assert maj_at_k(["a", "b"], [True, False], 2) == pytest.approx(0.5)
    assert maj_at_k(["a", "b", None], [True, False, False], 1) == pytest.approx(1 / 3)


# -- conventions -----------------------------------------------------------------------------------------------------


def test_truncated_is_wrong_with_reward_0_and_no_vote() -> None:
    cut = group("a", ("right", 1.0, "length"), RIGHT, answers=("5", "5"))
    found = estimates([cut, cut], (1, 2))
    assert found["pass@1"].value == 0.5 and found["reward"].value == 0.5 and found["truncated"].value == 0.5
    assert found["parts/p"].value == 0.5 and found["maj@2"].value == 1.0


def test_failures_of_the_verifier_leave_the_statistics_and_are_counted() -> None:
    a = group("a", RIGHT, ("timeout", 0.0, "eos"), ("error", 0.0, "eos"), WRONG)
    b = group("b", RIGHT, RIGHT, RIGHT, RIGHT)
    found = estimates([a, b], (1, 2))
    assert found["pass@1"].value == pytest.approx((0.5 + 1) / 2)
    assert found["pass@2"].value == pytest.approx(1.0)
    assert found["failed"].value == 2 and found["failed"].low == 2
    # two verdicts are too few for k = 3: item a is left out, and one item gives no interval
    assert "pass@3" not in estimates([a, b], (3,))


def test_unparsed_is_wrong_and_not_failed() -> None:
    found = estimates([group("a", ("unparsed", 0.0, "eos"), RIGHT)] * 2)
    assert found["pass@1"].value == 0.5 and found["failed"].value == 0


def test_maj_is_absent_without_canonical_answers() -> None:
    assert "maj@2" not in estimates([group("a", RIGHT, WRONG)] * 2, (2,))


def test_k_above_the_samples_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"pass@3 .* there are 2"):
        estimates([group("a", RIGHT, WRONG)] * 2, (3,))
    with pytest.raises(ArgumentError, match="1 responses and 0 scores"):
        estimates([Group(Prompt("a", text="a"), (response(),))])


def test_a_part_is_averaged_over_the_items_that_have_it() -> None:
    def with_parts(name: str, **parts: float) -> Group:
        return Group(Prompt(name, text=name), (response(),), (Score(1.0, parts=parts),))

    found = item_values(items_of([with_parts("a", short=1.0), with_parts("b", short=0.0), with_parts("c", json=1.0)]))
    assert found["parts/short"][:2].tolist() == [1.0, 0.0] and np.isnan(found["parts/short"][2])


# -- intervals -------------------------------------------------------------------------------------------------------


def test_one_sample_an_item_gives_nearly_wilsons_interval() -> None:
    """rho is 1 for 0/1 values; only Student's quantile in place of the normal one separates the two."""
    x = np.array([1.0] * 30 + [0.0] * 170)
    n, p, z = 200, 0.15, 1.971957  # t_{0.975} with 199 degrees of freedom
    centre, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = share_interval(x)
    assert found.low == pytest.approx((centre - half) / (1 + z**2 / n), abs=1e-6)
    assert found.high == pytest.approx((centre + half) / (1 + z**2 / n), abs=1e-6)


@pytest.mark.parametrize(("items", "samples"), [(50, 1), (50, 8), (200, 4)])
@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1, 0.5, 0.98])
def test_coverage_of_shares(items: int, samples: int, rate: float) -> None:
    """At least 91.5% on average over kinds of items and 90% for each, also where counts are 0 or 1 (a lattice)."""
    rng = np.random.default_rng([items, samples, round(1000 * rate)])
    shares = []
    for concentration in (0.5, 2.0, 20.0):  # from items always or never solved to items all alike
        difficulty = rng.beta(rate * concentration, (1 - rate) * concentration, (1000, items))
        found = [share_interval(x) for x in rng.binomial(samples, difficulty) / samples]
        shares.append(np.mean([e.low <= rate <= e.high for e in found]))
    assert np.mean(shares) >= 0.915 and min(shares) >= 0.90, shares


def test_all_wrong_is_not_a_point() -> None:
    found = share_interval(np.zeros(100))
    assert found.value == found.low == 0 and 0.02 < found.high < 0.06
    found = share_interval(np.ones(100))
    assert found.value == found.high == 1 and 0.94 < found.low < 0.98


def test_student_for_what_is_no_share_and_ratio_for_loss() -> None:
    x = np.array([1.0, 3.0, 5.0])
    found = mean_interval(x)
    assert found.value == 3 and found.high - 3 == pytest.approx(4.302653 * 2 / np.sqrt(3))
    same = ratio_interval(x, np.ones(3))
    assert (same.low, same.high) == pytest.approx((found.low, found.high))
    assert ratio_interval(np.array([1.0, 3.0]), np.array([2.0, 2.0])).value == 1.0
    with pytest.raises(ArgumentError, match="at least 2 items"):
        mean_interval(np.ones(1))


# -- evaluation with an engine ---------------------------------------------------------------------------------------


def verify(prompts: list[Prompt], texts: list[str]) -> list[Score]:
    """Right when the first token is the prompt's answer."""
    first = [t.split()[0] if t else None for t in texts]
    marks = [a == p.answer for a, p in zip(first, prompts, strict=True)]
    return [Score(float(ok), "right" if ok else "wrong", answer=a) for ok, a in zip(marks, first, strict=True)]


def tabular(count: int) -> TabularEngine:
    init = torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TabularEngine(count, 3, 2, init=init)


PROMPTS = [Prompt(f"p{i}", text=str(i), answer="1") for i in range(40)]
TASK = Task("toy", "", {"test": PROMPTS, "train": [], "validation": PROMPTS[:1]}, 2, "0", verify=verify)


def test_evaluation_estimates_what_the_policy_does() -> None:
    engine, seen = tabular(40), []
    found = evaluate(
        engine, TASK, "test", 40, 50, Key((1,)), (1, 4), on_progress=lambda done, total: seen.append((done, total))
    )

    def right(r: Response) -> float:
        return float(r.stop == "eos" and r.text.startswith("1"))

    exact = np.mean([float(engine.expected(p, right).detach()) for p in PROMPTS])
    assert found.metrics["pass@1"].value == pytest.approx(exact, abs=0.03)  # standard error 0.01
    assert seen[-1] == (40, 40) and len(seen) == 3
    report = found.json()
    assert {k: report[k] for k in ("task", "split", "items", "samples")} == {
        "task": "toy",
        "split": "test",
        "items": 40,
        "samples": 50,
    }
    assert set(report["metrics"]["pass@4"]) == {"value", "low", "high"} and "maj@4" in report["metrics"]


def test_an_items_samples_do_not_depend_on_the_others() -> None:
    few = evaluate(tabular(40), TASK, "test", 5, 6, Key((1,)))
    many = evaluate(tabular(40), TASK, "test", 40, 6, Key((1,)))
    for a, b in zip(few.groups, many.groups[:5], strict=True):
        assert [r.ids.tolist() for r in a.responses] == [r.ids.tolist() for r in b.responses]
    assert len({r.key for g in many.groups for r in g.responses}) == 40 * 6  # and no two share a key


def test_held_out_loss_and_preference_are_exact() -> None:
    engine = tabular(40)
    task = Task("pairs", "", {"test": PROMPTS}, 2, "0", pair=lambda p: ("1", "2"))
    found = evaluate(engine, task, "test", 40, 8, Key((1,)))
    logp = {name: [float(engine.logp(p, _reply(engine, p, name)).detach()) for p in PROMPTS] for name in ("1", "2")}
    assert found.samples == 1 and len(found.groups[0].responses) == 2
    assert found.metrics["loss"].value == pytest.approx(-np.mean(logp["1"]) / 2)  # two tokens a reply
    assert found.metrics["preference_accuracy"].value == np.mean(np.array(logp["1"]) > np.array(logp["2"]))
    assert found.metrics["loss"].low < found.metrics["loss"].value < found.metrics["loss"].high


def _reply(engine: TabularEngine, prompt: Prompt, reply: str) -> Response:
    return engine.encode_reply(engine.encode(prompt), reply, "pair")


def test_demonstrations_without_a_verifier_give_a_loss_only() -> None:
    task = Task("text", "", {"test": PROMPTS}, 2, "0", demonstrate=lambda p: None if p.id == "p3" else "2")
    found = evaluate(tabular(40), task, "test", 40, 1, Key((1,)))
    assert set(found.metrics) == {"loss"} and len(found.groups) == 39


def test_wrong_sizes_and_names_are_errors() -> None:
    with pytest.raises(UnknownName, match="Did you mean test"):
        evaluate(tabular(40), TASK, "tset", 4, 4, Key((1,)))
    with pytest.raises(ArgumentError, match="at least 2 items, got 1: 9 were asked for"):
        evaluate(tabular(40), TASK, "validation", 9, 4, Key((1,)))
    with pytest.raises(ArgumentError, match=r"k must lie in 1\.\.samples"):
        evaluate(tabular(40), TASK, "test", 4, 4, Key((1,)), (8,))
    with pytest.raises(ArgumentError, match="no verifier"):
        evaluate(tabular(40), Task("bare", "", {"test": PROMPTS}, 2, "0"), "test", 4, 4, Key((1,)))


def test_the_table_gives_the_same_estimates(tmp_path: Path) -> None:
    groups = [
        group("a", RIGHT, ("right", 1.0, "length"), ("timeout", 0.0, "eos"), WRONG, answers=("1", "1", None, "2")),
        group("b", RIGHT, WRONG, ("unparsed", 0.0, "eos"), WRONG, answers=("1", None, "3", "3")),
    ]
    write(groups, tmp_path / "deep" / "test.parquet")
    table = read(tmp_path / "deep" / "test.parquet")
    assert table == rows(groups)
    direct, stored = item_values(items_of(groups), (1, 2)), item_values(items_of_rows(table), (1, 2))
    assert direct.keys() == stored.keys()
    for name, values in direct.items():
        np.testing.assert_array_equal(values, stored[name])
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(RecordError, match="cannot read the evaluation"):
        read(tmp_path / "bad.parquet")
