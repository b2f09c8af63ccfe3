"""The moving anchor and the token reward head: their identities."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import Context, Part, chain
from equipoise.recipe import Recipe, Stage, Stream, constant
from equipoise.record import rollouts
from equipoise.types import Cost, Group, Objective, Score

PROMPT = dataclasses.replace(toy.PROMPTS[0], ids=(0,))


def run(part: Part, groups: list[Group], engine: Any = None, step: int = 0) -> list[Group]:
    ctx = Context(engine, Key((0,)), None, lambda *_: Cost(), step=step)  # type: ignore[arg-type]
    return part(ctx, groups, None)[0]


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective) -> torch.Tensor:
    engine.discard()
    engine.backward(groups, objective, count(groups, objective.totals))
    grad = engine.gradient()
    engine.discard()
    return grad


def unlike(engine: TabularEngine, rewards: list[float], seed: int) -> Group:
    """Responses of unlike lengths, with these rewards."""
    every = engine.responses(PROMPT)
    order = np.random.default_rng(seed).permutation(len(every))
    responses = tuple(every[order[k % len(every)]] for k in range(len(rewards)))
    return Group(PROMPT, responses, tuple(Score(x, "right" if x > 0 else "wrong") for x in rewards))


def trained(path: Path, method: str, **arguments: Any) -> tuple[TabularEngine, list[dict[str, float]]]:
    loop = toy.loop(path, method, Budget(flops=30_000.0), arguments=arguments)
    seen: list[dict[str, float]] = []
    loop.report = seen.append  # type: ignore[assignment]
    loop.run()
    assert isinstance(loop.engine, TabularEngine)
    return loop.engine, seen


def same(a: TabularEngine, b: TabularEngine) -> bool:
    return torch.equal(a.weights["logits"], b.weights["logits"])


# -- the moving anchor


def test_at_rate_1_the_kl_has_no_pull(tmp_path: Path) -> None:
    """The anchor is the policy whenever a step begins, where k2 has no gradient: its weight changes nothing."""
    light, _ = trained(tmp_path / "light", "t1", kl=0.01, rate=1.0, lr=10.0)
    heavy, _ = trained(tmp_path / "heavy", "t1", kl=1.0, lr=10.0, rate=1.0)
    held, _ = trained(tmp_path / "held", "t1", kl=1.0, lr=10.0, rate=0.0)
    torch.testing.assert_close(light.weights["logits"], heavy.weights["logits"], rtol=1e-12, atol=1e-14)
    assert held.weights["logits"].norm() < 0.9 * heavy.weights["logits"].norm()


def test_at_rate_0_the_anchor_is_the_start(tmp_path: Path) -> None:
    engine, _ = trained(tmp_path / "run", "t1", rate=0.0, lr=10.0)
    assert not engine.named["anchor"]["logits"].any() and engine.weights["logits"].any()


def test_the_kl_reported_is_0_at_rate_1_and_grows_at_rate_0(tmp_path: Path) -> None:
    _, still = trained(tmp_path / "one", "t1", rate=1.0, lr=10.0)
    _, moving = trained(tmp_path / "zero", "t1", rate=0.0, lr=10.0)
    assert all(line["kl"] == 0.0 for line in still if "kl" in line)
    kls = [line["kl"] for line in moving if "kl" in line]
    assert kls[0] == 0.0 and kls[-1] > 0.001


def test_the_kl_to_the_start_is_measured_whatever_the_anchor_does(tmp_path: Path) -> None:
    """By hand from the rollouts; it grows with a free anchor, and measuring it changes no update."""
    _, seen = trained(tmp_path / "run", "t1", rate=1.0, lr=10.0)
    kls = [line["rewards/kl/mean"] for line in seen if "rewards/kl/mean" in line]
    assert kls[0] == pytest.approx(0.0, abs=1e-6)
    assert sum(kls[-3:]) > 3 * 0.03 > sum(kls[:3])  # means of a few samples
    last = rollouts.read(tmp_path / "run" / "rollouts")[-1]
    start = toy.engine()
    said = start.outputs([last], ["logp"])[0]["logp"]
    for r, s, anchor in zip(last.responses, last.scores, said, strict=True):
        assert r.logprobs is not None
        assert s.parts["kl"] == pytest.approx(float((r.logprobs - anchor).sum())) and s.value in (0.0, 1.0)
    _, lines = trained(tmp_path / "blind", "t1", rate=1.0, lr=10.0, log_kl=False)
    both = zip(lines[1:3], seen[1:3], strict=True)  # later ones have other rates: what is measured is charged
    assert all(a["reward"] == b["reward"] and a["grad_norm"] == b["grad_norm"] for a, b in both)


def test_without_kl_bonus_and_penalties_it_is_leave_one_out(tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "t1", "t1", kl=0.0, entropy=0.0, samples=2, log_kl=False)
    two, _ = trained(tmp_path / "rloo", "rloo", samples=2)
    assert same(one, two)


def test_repeated_n_grams_by_hand() -> None:
    assert credit.repeated([1, 2, 1, 2, 1], 2) == 0.5  # 12 21 12 21
    assert credit.repeated([1, 1, 1, 1], 1) == 0.75 and credit.repeated([1, 2], 3) == 0.0
    g = toy.group([1.0, 0.0], [4, 2])  # 1 1 1 0 and 1 0
    (shaped,) = run(credit.penalise_repetition(1, 0.4), [g])
    assert [s.value for s in shaped.scores] == pytest.approx([1 - 0.4 * 0.5, 0.0])


# -- the token reward head


def test_without_weights_filter_and_separate_denominators_it_is_token_mean_leave_one_out() -> None:
    engine = toy.random_policy(3)
    groups = [unlike(engine, [1.0, 0.0, 0.0, 1.0], 1), unlike(engine, [0.0, 1.0, 0.0, 0.0], 2)]
    groups = run(chain(credit.pass_rate(), credit.leave_one_out()), groups)
    got = gradient(engine, groups, objectives.right_and_wrong(1.0, separate=False))
    torch.testing.assert_close(
        got, gradient(engine, groups, objectives.clipped(0.2, 0.2, "token")), rtol=1e-12, atol=1e-15
    )


def test_right_and_wrong_are_divided_by_their_own_tokens() -> None:
    """By autograd, over two groups, and the same when the groups are run one by one."""
    engine = toy.random_policy(4)
    groups = [unlike(engine, [1.0, 0.0, 0.0, 1.0], 1), unlike(engine, [0.0, 1.0, 0.0, 0.0], 2)]
    groups = run(chain(credit.pass_rate(), credit.leave_one_out()), groups)
    terms: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    tokens = {True: 0, False: 0}
    for g in groups:
        for r, s, a in zip(g.responses, g.scores, credit.per_response(g, "advantage"), strict=True):
            right = s.status == "right"
            terms[right].append(-a * engine.logp(PROMPT, r) * (1.0 if right else 0.5))
            tokens[right] += len(r.ids)
    loss = sum(torch.stack(terms[k]).sum() / tokens[k] for k in (True, False))
    (want,) = torch.autograd.grad(loss, engine.weights["logits"])
    got = gradient(engine, groups, objectives.right_and_wrong(0.5))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    engine.rows_tokens = 1
    torch.testing.assert_close(gradient(engine, groups, objectives.right_and_wrong(0.5)), want, rtol=1e-12, atol=1e-15)


def test_weights_come_from_the_mean_of_the_prefix() -> None:
    h = np.array([2.0, -2.0, 3.0])
    c = 1 / (1 + np.exp(-np.array([2.0, 0.0, 1.0])))
    np.testing.assert_allclose(credit.prefix_weights(h, True), np.maximum(2 * c - 1, 0))
    np.testing.assert_allclose(credit.prefix_weights(h, False), np.maximum(1 - 2 * c, 0))
    np.testing.assert_allclose(credit.prefix_weights(-h, False), credit.prefix_weights(h, True))


def test_the_head_weighs_advantages_and_at_first_gives_none() -> None:
    engine = toy.random_policy(5, heads=["token_reward"])
    (g,) = run(chain(credit.pass_rate(), credit.leave_one_out()), [unlike(engine, [1.0, 0.0], 1)])
    weighed = credit.weigh_by_prefix("token_reward")
    assert not any(a.any() for a in run(weighed, [g], engine)[0].notes["advantage"].values)
    with torch.no_grad():
        engine.weights["head:token_reward"][:] = 1.0
    right, wrong = run(weighed, [g], engine)[0].notes["advantage"].values
    np.testing.assert_allclose(right, 1.0 * (2 / (1 + np.exp(-1.0)) - 1))
    assert not wrong.any()


def test_the_head_learns_the_outcome_from_the_mean_over_tokens() -> None:
    engine = toy.random_policy(6, heads=["token_reward"])
    with torch.no_grad():
        engine.weights["head:token_reward"][:] = torch.tensor([[0.3, -1.0, 2.0]])
    (g,) = run(credit.pass_rate(), [unlike(engine, [1.0, 0.0, 0.0], 7)])
    engine.backward([g], objectives.outcome("token_reward"), count([g]))
    head = engine.weights["head:token_reward"]
    losses = []
    for r, s in zip(g.responses, g.scores, strict=True):
        rows = [engine.prefixes[tuple(r.ids[:t].tolist())] for t in range(len(r.ids))]
        p = torch.sigmoid(head[0, rows].mean())
        losses.append(-torch.log(p if s.status == "right" else 1 - p) / 3)
    (want,) = torch.autograd.grad(torch.stack(losses).sum(), head)
    torch.testing.assert_close(head.grad, want, rtol=1e-10, atol=1e-12)


def test_one_right_and_one_wrong_response_are_learned_from() -> None:
    g = toy.group([1.0, 0.0, 1.0, 0.0])
    seen = set()
    for step in range(40):
        (kept,) = run(credit.keep_one_of_each(), [g], step=step)
        seen.add(tuple(i for i, r in enumerate(kept.responses) if r.trained.any()))
    assert seen == {(0, 1), (0, 3), (1, 2), (2, 3)}
    assert run(credit.keep_one_of_each(), [toy.group([1.0, 1.0]), toy.group([0.0])]) == []


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("t1", {"rate": 2.0}, r"rate=2.*\[0, 1\]"),
        ("t1", {"sft_share": 1.0}, r"sft_share=1.*\[0, 1\)"),
        ("t1", {"repetition": -1.0}, "weight=-1.*at least 0"),
        ("oreal", {"warmup": 1.0}, r"warmup=1.*\[0, 1\)"),
        ("oreal", {"wrong": -0.5}, "wrong=-0.5.*at least 0"),
    ],
)
def test_arguments_that_make_no_sense(method: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"{method}.*{said}"):
        toy.recipe(method, **arguments)


def test_a_supervised_stage_needs_demonstrations() -> None:
    assert [s.name for s in toy.recipe("t1", sft_share=0.2).stages] == ["sft", "train"]
    with pytest.raises(ArgumentError, match="demonstrations"):
        toy.recipe("t1", dataclasses.replace(toy.TASK, demonstrate=None), sft_share=0.2)


def test_the_objective_names_who_gives_its_notes() -> None:
    draw = sources.sampled(toy.TASK, 2, 2)
    stream = Stream(draw, objectives.right_and_wrong(), signals.verified(toy.TASK), credit.leave_one_out())
    with pytest.raises(ArgumentError, match=r"note:right.*credit\.pass_rate"):
        Recipe("x", [Stage([stream], constant(1.0))], Budget(flops=1.0))
