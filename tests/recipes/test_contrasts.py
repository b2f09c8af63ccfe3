"""Embeddings of samples beside the demonstration's: alignment, the contrast by hand, projections in both engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toy
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import objectives, signals, sources
from equipoise.parts.signals.demonstrations import common, embedding
from equipoise.protocols import Context, chain
from equipoise.recipe import Recipe, Stage, Stream, constant
from equipoise.record import rollouts
from equipoise.types import Decoder, Group, Score

HEAD = "embedding[5, random]"
TAU, CAP = 0.3, 0.9
tokens = st.lists(st.integers(1, 3), max_size=7)


def ids(x: list[int]) -> np.ndarray:
    return np.array(x, dtype=np.int64)


# -- what is in common ---------------------------------------------------------------------------------------------


@given(tokens, tokens)
def test_common_is_a_longest_common_subsequence(a: list[int], b: list[int]) -> None:
    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        found = 1 + longest(i + 1, j + 1) if a[i] == b[j] else 0
        return max(found, longest(i + 1, j), longest(i, j + 1))

    in_a, in_b = common(ids(a), ids(b))
    assert ids(a)[in_a].tolist() == ids(b)[in_b].tolist() and in_a.sum() == longest(0, 0)


def test_embeddings_weigh_tokens_by_the_value_head() -> None:
    z, v = np.array([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]), np.log([1.0, 3.0, 5.0])
    np.testing.assert_allclose(embedding(z, v, np.array([True, True, False])), [0.25, 0.75])
    assert not embedding(z, v, np.zeros(3, dtype=bool)).any()


# -- the contrast, by hand -----------------------------------------------------------------------------------------


def policy(**options: Any) -> TabularEngine:
    """Random logits and values; the projection as it starts."""
    engine = toy.random_policy(3, prompts=2, vocabulary=4, length=3, heads=["value", HEAD], **options)
    with torch.no_grad():
        v = engine.weights["head:value"]
        v.copy_(torch.randn(v.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    return engine


def context(engine: Any, **limits: Any) -> Context:
    return Context(engine, Key((0,)), Ledger(Budget(**limits or {"flops": 1e15})), lambda *a: engine.bound(*a, 1, 1))


# Demonstrations are 1 1 0 and 2 1 0; the end of a turn is never in common.
SAMPLES = [[[1, 2, 0], [2, 1, 0], [3, 0], [3, 3, 3], [3, 1, 1]], [[2, 3, 0], [1, 0], [3, 2, 1], [1, 2, 0]]]


def compared(engine: TabularEngine) -> list[Group]:
    groups = []
    for k, samples in enumerate(SAMPLES):
        prompt = engine.encode(toy.PROMPTS[k])
        responses = tuple(toy.response(x) for x in samples)
        groups.append(Group(prompt, responses, tuple(toy.verify([prompt] * len(samples), [r.text for r in responses]))))
    failed = dataclasses.replace(groups[1].responses[3], trained=np.zeros(3, dtype=bool))
    groups[1] = dataclasses.replace(
        groups[1],
        responses=(*groups[1].responses[:3], failed),
        scores=(*groups[1].scores[:3], Score(0.0, "timeout")),
    )
    return signals.beside_demonstration(toy.TASK, HEAD)(context(engine), groups, None)[0]


MARKS = [[1, -1, 0, 0, -1], [1, -1, -1, 0]]  # of wrong ones those that share something; 0: nothing, or a failure
COMMON = [[[1, 0, 0], [0, 1, 0], [0, 0], [0, 0, 0], [0, 1, 1]], [[1, 0, 0], [1, 0], [0, 1, 1], [0, 0, 0]]]


def test_marks_and_common_tokens_by_hand() -> None:
    for g, marks, places in zip(compared(policy()), MARKS, COMMON, strict=True):
        assert g.notes["contrast"].values[0].tolist() == marks
        assert [x.tolist() for x in g.notes["common"].values] == places
        assert g.notes["demonstrated"].values[0].shape == (len(marks), 5)


def mean(engine: TabularEngine, group: Group, ids: list[int], keep: list[bool]) -> torch.Tensor | None:
    """Of the projected logits before the tokens to keep, weighed by exp of the value: from the tables, one by one."""
    if not any(keep):
        return None
    assert group.prompt.ids is not None
    w, total, weights = engine.weights, torch.zeros(5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t, on in enumerate(keep):
        if on:
            at = group.prompt.ids[0], engine.prefixes[tuple(ids[:t])]
            z = w["logits"][at] @ w[f"head:{HEAD}"][:-1] + w[f"head:{HEAD}"][-1]
            total, weights = total + w["head:value"][at].exp() * z, weights + w["head:value"][at].exp()
    return total / weights


def by_hand(engine: TabularEngine, groups: list[Group], of: str) -> torch.Tensor:
    cos = torch.nn.functional.cosine_similarity
    queries: list[tuple[Any, Any, Any]] = []  # query, own, demonstrated
    others: list[Any] = []
    for g, marks, places in zip(groups, MARKS, COMMON, strict=True):
        said = [int(toy.wanted(g.prompt)), 1, 0]
        for r, mark, place in zip(g.responses, marks, places, strict=True):
            if not r.trained.any():
                continue
            own = r.ids.tolist()
            if of == "right":
                e = mean(engine, g, own, [True] * len(own))
                d = mean(engine, g, said, [True] * 3)
                others.append(e)
                query = d
            else:
                e = mean(engine, g, own, [p == 1 for p in place])
                others += [e, mean(engine, g, own, [p == 0 for p in place])]
                both = common(ids(own), ids(said))[1]
                d = mean(engine, g, said, [not (x and t > 0) for x, t in zip(both, said, strict=True)])
                query = e
            if mark == (1 if of == "right" else -1):
                assert d is not None and query is not None
                queries.append((query.detach() if of == "right" else query, e, d.detach()))
    losses = []
    for query, own, d in queries:
        far = torch.stack([cos(query, x, dim=0) for x in others if x is not None]) / TAU
        losses.append(far.logsumexp(0) - cos(own, d, dim=0).clamp(max=CAP) / TAU)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("of", ["right", "wrong"])
@pytest.mark.parametrize("rows_tokens", [10**9, 1])
def test_the_contrast_and_its_gradient_by_hand(of: Any, rows_tokens: int) -> None:
    """The demonstration has no gradient, whatever it is made of; however the step is cut, negatives are all samples."""
    engine = policy(rows_tokens=rows_tokens)
    groups, objective = compared(engine), objectives.near_demonstration(of, HEAD, TAU, CAP)
    want = by_hand(engine, groups, of)
    metrics, _ = engine.backward(groups, objective, count(groups, objective.totals))
    assert metrics["loss"][0] == pytest.approx(float(want.detach()), rel=1e-12)
    n = {"right": 2.0, "wrong": 4.0}[of]
    assert metrics[f"contrast_{of}"] == pytest.approx((n * float(want.detach()), n))
    names = list(engine.weights)
    slopes = torch.autograd.grad(want, [engine.weights[n] for n in names])
    for name, slope in zip(names, slopes, strict=True):
        torch.testing.assert_close(engine.weights[name].grad, slope, rtol=1e-10, atol=1e-12)
        assert slope.any()


def test_beyond_the_cap_a_sample_is_drawn_no_nearer() -> None:
    """With a cap below every cosine only the push away is left: where the cap is makes no difference."""
    engine, found = policy(), []
    groups = compared(engine)
    for cap in (-0.99, -0.98, 0.9):
        near = objectives.near_demonstration("right", HEAD, TAU, cap)
        engine.backward(groups, near, count(groups, near.totals))
        found.append(engine.gradient())
        engine.discard()
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_a_demonstration_costs_a_label_and_a_read_and_is_not_trained_on() -> None:
    engine = policy()
    prompts = [engine.encode(p) for p in toy.PROMPTS[:2]]
    drawn = engine.sample(prompts, 3, Decoder(3), [Key((k,)) for k in range(2)])
    drawn, _ = signals.verified(toy.TASK)(context(engine), drawn, None)
    before, ctx = engine.spent(), context(engine)
    groups, _ = signals.beside_demonstration(toy.TASK, HEAD)(ctx, drawn, None)
    assert [g.responses for g in groups] == [g.responses for g in drawn] and count(groups) == count(drawn)
    ((asked, fits, cost),) = ctx.reserved
    assert (asked, fits, cost.labels) == (2, 2, {"demonstration": 2})
    spent = engine.spent() - before
    assert spent.trained_tokens == 0 and 0 < spent.flops <= cost.flops
    few = context(engine, labels=1)
    kept, _ = signals.beside_demonstration(toy.TASK, HEAD)(few, drawn, None)
    assert len(kept) == 1 and [id(g) for g in few.dropped] == [id(drawn[1])]


# -- the method ----------------------------------------------------------------------------------------------------


def trained(path: Path, method: str, **arguments: Any) -> TabularEngine:
    loop = toy.loop(path, method, Budget(flops=20_000.0), arguments=arguments)
    loop.run()
    assert isinstance(loop.engine, TabularEngine)
    return loop.engine


def test_without_contrast_it_is_reft_bit_for_bit(tmp_path: Path) -> None:
    reft = trained(tmp_path / "reft", "reft", demonstrations=32)
    none = trained(tmp_path / "none", "carft", contrast=0.0)
    assert none.weights.keys() == reft.weights.keys() and none.spent() == reft.spent()
    assert all(torch.equal(none.weights[k], w) for k, w in reft.weights.items())
    ends = [trained(tmp_path / of, "carft", of=of).weights["logits"] for of in ("wrong", "right", "both")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(ends[a], ends[b], atol=1e-6)
    assert not any(torch.allclose(x, reft.weights["logits"], atol=1e-6) for x in ends)


def test_the_contrast_draws_right_samples_to_the_demonstration() -> None:
    """By itself, in 100 steps: the right sample becomes the nearest of all to its prompt's demonstration."""
    engine, losses = policy(), []
    near = objectives.near_demonstration("right", HEAD, TAU)
    for _ in range(100):
        groups = compared(engine)
        metrics, _ = engine.backward(groups, near, count(groups, near.totals))
        losses.append(metrics["loss"][0])
        engine.step(0.3)
    assert losses[-1] < losses[0] - 0.3


def test_embeddings_are_not_recorded_and_marks_are(tmp_path: Path) -> None:
    trained(tmp_path / "run", "carft")
    found = [g.notes.keys() for g in rollouts.read(tmp_path / "run" / "rollouts") if g.scores]
    assert found and all({"common", "contrast", "value"} <= f and "demonstrated" not in f for f in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"contrast": -1.0}, "contrast=-1, width=64: expected at least 0"),
        ({"width": 0}, "width=0: expected"),
        ({"tau": 0.0}, "tau=0.*above 0"),
        ({"sft_share": 0.0}, r"sft_share=0.*\(0, 1\)"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        toy.recipe("carft", **arguments)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ArgumentError, match="demonstrations"):
        toy.recipe("carft", dataclasses.replace(toy.TASK, demonstrate=None))
    with pytest.raises(ArgumentError, match="of='all': expected 'right' or 'wrong'"):
        objectives.near_demonstration("all", HEAD)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="cosine"):
        objectives.near_demonstration("right", HEAD, 0.2, 1.5)
    near = objectives.near_demonstration("right", HEAD)
    stream = Stream(sources.sampled(toy.TASK, 2, 2), near, chain(signals.verified(toy.TASK)))
    with pytest.raises(ArgumentError, match=r"note:demonstrated.*signals\.beside_demonstration"):
        Recipe("x", [Stage([stream], constant(1.0))], Budget(flops=1.0))
    engine, silent = policy(), dataclasses.replace(toy.TASK, demonstrate=lambda p: None)
    with pytest.raises(ArgumentError, match="'p0' of 'toy' has no demonstration"):
        group = Group(engine.encode(toy.PROMPTS[0]), (toy.response([1, 0]),), (Score(1.0),))
        signals.beside_demonstration(silent, HEAD)(context(engine), [group], None)
