"""Ratios, weights and baselines of the policy gradient: the methods' identities, exact on the enumerable policy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise import recipes
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, objectives
from equipoise.protocols import Context, Part
from equipoise.recipe import Stream
from equipoise.types import Cost, Group, Note, Objective, Score

PROMPT = dataclasses.replace(toy.PROMPTS[0], ids=(0,))


def stream(method: str, stage: int = -1, **arguments: Any) -> Stream:
    """What the recipe makes of its arguments: the thing that is tested."""
    made = recipes.build(method, toy.TASK, **arguments)
    (only,) = made.stages[stage].streams
    return only


def credited(part: Part | None, groups: list[Group], engine: TabularEngine | None = None) -> list[Group]:
    assert part is not None
    return part(Context(engine, Key((0,)), None, lambda *_: Cost()), groups, None)[0]  # type: ignore[arg-type]


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective | None) -> torch.Tensor:
    assert objective is not None
    engine.discard()
    engine.backward(groups, objective, count(groups))
    grad = engine.gradient()
    engine.discard()
    return grad


def derivative(engine: TabularEngine, value: torch.Tensor) -> torch.Tensor:
    (grad,) = torch.autograd.grad(value, engine.weights["logits"])
    return grad


def scored(engine: TabularEngine, rewards: list[float], prompt: int = 0, seed: int = 3) -> Group:
    """Responses of unlike lengths, recorded log-probs and given rewards."""
    at = dataclasses.replace(toy.PROMPTS[prompt], ids=(prompt,))
    every = engine.responses(at)
    order = np.random.default_rng(seed).permutation(len(every))
    group = Group(at, tuple(every[order[i % len(every)]] for i in range(len(rewards))))
    logps = engine.outputs([group], ["logp"])[0]["logp"]
    responses = [dataclasses.replace(r, logprobs=x) for r, x in zip(group.responses, logps, strict=True)]
    scores = tuple(Score(r, "right" if r > 0 else "wrong") for r in rewards)
    return dataclasses.replace(group, responses=tuple(responses), scores=scores)


def stale(engine: TabularEngine, old: TabularEngine, groups: list[Group]) -> list[Group]:
    """The groups as another policy, ``old``, sampled them."""
    after = []
    for g in groups:
        logps = old.outputs([g], ["logp"])[0]["logp"]
        responses = [dataclasses.replace(r, logprobs=x) for r, x in zip(g.responses, logps, strict=True)]
        noted = credit.noted(g, old=Note("token", tuple(logps)))
        after.append(dataclasses.replace(noted, responses=tuple(responses)))
    return after


def token_logps(engine: TabularEngine, group: Group, i: int) -> torch.Tensor:
    r = group.responses[i]
    rows = [engine.prefixes[tuple(r.ids[:t].tolist())] for t in range(len(r.ids))]
    every = torch.log_softmax(engine.weights["logits"][group.prompt.ids[0], rows], -1)  # type: ignore[index]
    return every[range(len(rows)), r.ids.tolist()]


def exact(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.abs().max() > 1e-6
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# -- REINFORCE -----------------------------------------------------------------------------------------------------


def reward(ids: list[int]) -> float:
    return float(sum((i + 1) * t for i, t in enumerate(ids)) % 3)


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_any_constant_baseline_leaves_the_gradient_of_expected_reward(baseline: float) -> None:
    engine = toy.random_policy(0)
    part, objective = credit.subtract(baseline), stream("reinforce", baseline="none").objective
    total, second = torch.zeros_like(engine.weights["logits"]), 0.0
    for r in engine.responses(PROMPT):
        p = float(engine.logp(PROMPT, r).detach().exp())
        g = credited(part, [Group(PROMPT, (r,), (Score(reward(r.ids.tolist())),))])
        one = gradient(engine, g, objective)
        total, second = total + p * one, second + p * float((one**2).sum())
    exact(-total, derivative(engine, engine.expected(PROMPT, lambda r: reward(r.ids.tolist()))))


def test_a_baseline_of_the_mean_reward_lowers_the_variance() -> None:
    engine = toy.random_policy(0)
    mean = float(engine.expected(PROMPT, lambda r: reward(r.ids.tolist())).detach())
    second = {}
    for baseline in (0.0, mean):
        second[baseline] = 0.0
        for r in engine.responses(PROMPT):
            g = credited(credit.subtract(baseline), [Group(PROMPT, (r,), (Score(reward(r.ids.tolist())),))])
            one = gradient(engine, g, objectives.score_function())
            second[baseline] += float(engine.logp(PROMPT, r).detach().exp() * (one**2).sum())
    assert second[mean] < 0.9 * second[0.0]


def test_what_a_reward_is_compared_with_by_hand() -> None:
    groups = [toy.group([1.0, 0.0]), toy.group([1.0, 1.0])]

    def a(baseline: str) -> list[float]:
        done = credited(stream("reinforce", baseline=baseline).credit, groups)
        return [x for g in done for x in g.notes["advantage"].values[0].tolist()]

    assert a("batch") == [0.25, -0.75, 0.25, 0.25]
    assert a("others") == pytest.approx([1 / 3, -1, 1 / 3, 1 / 3])
    assert a("prompt") == [1.0, -1.0, 0.0, 0.0]
    assert a("none") == [1.0, 0.0, 1.0, 1.0]
    (all_equal,) = credited(credit.center("batch"), [toy.group([0.1, 0.1, 0.1])])
    assert all_equal.notes["advantage"].values[0].tolist() == [0.0] * 3
    with pytest.raises(ArgumentError, match="expected 'group' or 'batch'"):
        credit.center("step")  # type: ignore[arg-type]


def test_a_greedy_baseline_leaves_the_gradient_of_expected_reward() -> None:
    """Over every response, each compared with the reward of the most likely token after the most likely token."""
    engine = toy.random_policy(2)
    judged = dataclasses.replace(
        toy.TASK, verify=lambda ps, texts: [Score(reward([int(t) for t in text.split()])) for text in texts]
    )
    part, ids = credit.subtract_greedy(judged), list[int]()
    while len(ids) < 2 and 0 not in ids:
        ids.append(int(engine.weights["logits"][0, engine.prefixes[tuple(ids)]].argmax()))
    total = torch.zeros_like(engine.weights["logits"])
    for r in engine.responses(PROMPT):
        before = engine.spent().generated_tokens
        mine = reward(r.ids.tolist())
        ctx = Context(engine, Key((0,)), Ledger(Budget(flops=1e9)), lambda *_: Cost())
        g = part(ctx, [Group(PROMPT, (r,), (Score(mine),))], None)[0]
        assert g[0].notes["advantage"].values[0].tolist() == [mine - reward(ids)] and len(g[0].responses) == 1
        assert engine.spent().generated_tokens - before == len(ids) <= ctx.reserved[0][2].generated_tokens
        total += float(engine.logp(PROMPT, r).detach().exp()) * gradient(engine, g, objectives.score_function())
    exact(-total, derivative(engine, engine.expected(PROMPT, lambda r: reward(r.ids.tolist()))))


def test_a_greedy_response_that_cannot_be_paid_or_judged_gives_no_advantage() -> None:
    engine, groups = toy.engine(), [toy.group([1.0, 0.0]), toy.group([1.0, 0.0])]
    ctx = Context(engine, Key((0,)), Ledger(Budget(generated_tokens=5)), lambda *_: Cost())
    kept = credit.subtract_greedy(toy.TASK)(ctx, groups, None)[0]
    assert len(kept) == 1 and [id(g) for g in ctx.dropped] == [id(groups[1])]
    assert [s.parts["greedy"] for s in kept[0].scores] == [0.0, 0.0]  # of equal logits the first ends at once
    broken = dataclasses.replace(toy.TASK, verify=lambda ps, texts: [Score(0.0, "error") for _ in texts])
    ctx = Context(engine, Key((0,)), Ledger(Budget(flops=1e9)), lambda *_: Cost())
    (g, _) = credit.subtract_greedy(broken)(ctx, groups, None)[0]
    assert not g.notes["advantage"].values[0].any()


def test_a_running_mean_is_of_the_steps_before() -> None:
    part, state, seen = credit.subtract_running_mean(0.5), None, []
    for rewards in ([1.0, 1.0], [0.0, 1.0], [0.0, 0.0]):
        (g,), state = part(None, [toy.group(rewards)], state)  # type: ignore[arg-type]
        seen.append(rewards[0] - float(g.notes["advantage"].values[0][0]))
    assert seen == pytest.approx([0.0, 1.0, (0.5 * 1 + 1 * 0.5) / 1.5])
    with pytest.raises(ArgumentError, match=r"decay=1\.0: expected"):
        credit.subtract_running_mean(1.0)


# -- GSPO ----------------------------------------------------------------------------------------------------------


def test_gspo_on_the_first_update_is_grpo_and_later_the_geometric_mean() -> None:
    engine = toy.random_policy(1)
    made = stream("gspo", low=0.9, high=9.0)
    (g,) = credited(made.credit, [scored(engine, [1.0, 0.0, 0.0, 1.0])])
    exact(gradient(engine, [g], made.objective), gradient(engine, [g], stream("grpo").objective))
    old = toy.random_policy(2)
    (late,) = stale(engine, old, [g])
    a = late.notes["advantage"].values[0]
    total = torch.zeros((), dtype=torch.float64)
    for i, r in enumerate(late.responses):
        s = ((engine.logp(PROMPT, r) - old.logp(PROMPT, r).detach()) / len(r.ids)).exp()
        assert 0.1 < s < 10  # inside the clip
        total = total - a[i] * s / len(late.responses)
    exact(gradient(engine, [late], made.objective), derivative(engine, total))


def test_gspo_clips_whole_responses_at_its_own_width() -> None:
    engine = toy.random_policy(1)
    made = stream("gspo")
    (g,) = stale(engine, toy.random_policy(2), credited(made.credit, [scored(engine, [1.0, 0.0, 0.0, 1.0])]))
    total = torch.zeros((), dtype=torch.float64)
    for i, r in enumerate(g.responses):
        s = ((engine.logp(PROMPT, r) - sum(g.notes["old"].values[i])) / len(r.ids)).exp()
        a = g.notes["advantage"].values[0][i]
        total = total + torch.maximum(-a * s, -a * s.clamp(1 - 3e-4, 1 + 4e-4)) / 4
    exact(gradient(engine, [g], made.objective), derivative(engine, total))


# -- CISPO ---------------------------------------------------------------------------------------------------------


def test_cispo_keeps_a_bounded_gradient_where_ppo_has_none() -> None:
    engine = toy.random_policy(3)
    made = stream("cispo", highest=1.5)
    (g,) = credited(made.credit, [scored(engine, [1.0, 0.0, 0.0, 1.0, 0.0])])
    ppo = objectives.clipped(0.2, 0.2, "token")
    exact(gradient(engine, [g], made.objective), gradient(engine, [g], ppo))  # all ratios are 1
    (late,) = stale(engine, toy.random_policy(4), [g])
    total, tokens, above = torch.zeros((), dtype=torch.float64), 0, 0
    for i in range(5):
        logp = token_logps(engine, late, i)
        rho = (logp.detach() - torch.tensor(late.notes["old"].values[i])).exp()
        above += int((rho > 1.5).sum())
        total = total - (rho.clamp(max=1.5) * late.notes["advantage"].values[0][i] * logp).sum()
        tokens += len(logp)
    assert above
    exact(gradient(engine, [late], made.objective), derivative(engine, total / tokens))
    unbounded = stream("cispo", highest=math.inf).objective
    exact(gradient(engine, [late], unbounded), gradient(engine, [late], objectives.clipped(1.0, math.inf, "token")))


@pytest.mark.parametrize("bounds", [(0.0, 0.5), (1.5, 2.0), (-1.0, 2.0)])
def test_bounds_of_the_ratio_must_hold_one(bounds: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="expected 0 <= lowest <= 1 <= highest"):
        stream("cispo", lowest=bounds[0], highest=bounds[1])


# -- REINFORCE++ ---------------------------------------------------------------------------------------------------


def test_reinforce_pp_with_a_baseline_is_grpo_on_like_groups() -> None:
    groups = [toy.group([1.0, 0.0, 0.0, 1.0]), toy.group([0.0, 1.0, 1.0, 0.0])]
    whitened = credited(stream("reinforce_pp", baseline=True).credit, groups)
    grouped = credited(stream("grpo").credit, groups)
    for w, g in zip(whitened, grouped, strict=True):
        np.testing.assert_allclose(credit.token_values(w, "advantage"), credit.token_values(g, "advantage"), rtol=1e-5)


def test_easy_prompts_train_without_a_baseline_and_not_with_one() -> None:
    groups = [toy.group([1.0, 1.0]), toy.group([1.0, 0.0])]
    plain, based = (credited(stream("reinforce_pp", baseline=b).credit, groups) for b in (False, True))
    assert credit.token_values(plain[0], "advantage")[0][0] == pytest.approx(0.25 / math.sqrt(3 / 16))
    assert not np.any(credit.token_values(based[0], "advantage"))
    every = np.concatenate([x for g in plain for x in credit.token_values(g, "advantage")])
    assert every.mean() == pytest.approx(0.0, abs=1e-12) and every.std() == pytest.approx(1.0, rel=1e-6)


def test_returns_discount_the_score_and_take_off_the_kl_ahead() -> None:
    (g,) = credited(credit.returns(0.5), [toy.group([1.0], [3])])
    assert g.notes["advantage"].values[0].tolist() == [0.25, 0.5, 1.0]
    engine = toy.random_policy(5)
    reference = toy.random_policy(6)
    engine.named["start"] = {k: w.detach().clone() for k, w in reference.weights.items()}
    one = scored(engine, [1.0, 0.0, 1.0, 1.0])
    (g,) = credited(credit.returns(1.0, 0.3), [one], engine)
    ref = engine.outputs([one], ["logp"], "start")[0]["logp"]
    for i, r in enumerate(one.responses):
        assert r.logprobs is not None
        ahead = np.cumsum((r.logprobs - ref[i])[::-1])[::-1]
        np.testing.assert_allclose(g.notes["advantage"].values[i], one.scores[i].value - 0.3 * ahead, rtol=1e-9)
    with pytest.raises(ArgumentError, match="expected a discount in"):
        stream("reinforce_pp", gamma=1.5)


# -- PSR, NSR, W-REINFORCE -----------------------------------------------------------------------------------------


def test_negative_samples_alone_refill_the_others_by_their_odds() -> None:
    engine = toy.random_policy(7, vocabulary=4, length=1)
    made = stream("psr_nsr", weight_right=0.0, weight_wrong=1.0)
    every = engine.responses(PROMPT)
    v = int(every[2].ids[0])
    (g,) = credited(made.credit, [Group(PROMPT, (every[2], every[1]), (Score(0.0, "wrong"), Score(1.0)))])
    pi = torch.softmax(engine.weights["logits"][0, 0].detach(), -1)
    want = pi.clone()
    want[v] = -(1 - pi[v])
    exact(-gradient(engine, [g], made.objective)[0, 0], pi[v] * 0 + want)


def test_what_is_left_out_leaves_the_denominator() -> None:
    engine = toy.random_policy(8)
    g = scored(engine, [1.0, 0.0, 0.0, 1.0])
    for right, wrong in ((1.0, 0.0), (0.0, 1.0), (0.1, 1.0)):
        made = stream("psr_nsr", weight_right=right, weight_wrong=wrong)
        (done,) = credited(made.credit, [g])
        kept = [i for i, s in enumerate(g.scores) if (right if s.value else wrong)]
        tokens = sum(len(g.responses[i].ids) for i in kept)
        assert count([done]).tokens == tokens
        signs = [right if g.scores[i].value else -wrong for i in kept]
        logps = [engine.logp(PROMPT, g.responses[i]) for i in kept]
        want = -sum(a * x for a, x in zip(signs, logps, strict=True)) / tokens
        exact(gradient(engine, [done], made.objective), derivative(engine, want))  # type: ignore[arg-type]


def test_an_entropy_bonus_is_minus_the_gradient_of_entropy() -> None:
    engine = toy.random_policy(9, vocabulary=4, length=1)
    (one, *_) = engine.responses(PROMPT)
    got = gradient(engine, [Group(PROMPT, (one,))], -0.5 * objectives.entropy("token"))
    logp = torch.log_softmax(engine.weights["logits"][0, 0], -1)
    exact(got, derivative(engine, -0.5 * -(logp.exp() * logp).sum()))
    assert "entropy" in stream("psr_nsr", entropy=0.001).needs and "entropy" not in stream("psr_nsr").needs


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 1.0), (1.0, -0.5)])
def test_weights_of_outcomes_are_not_negative_and_not_both_zero(weights: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="expected two numbers of at least 0"):
        stream("psr_nsr", weight_right=weights[0], weight_wrong=weights[1])


# -- TOPR ----------------------------------------------------------------------------------------------------------


def test_topr_tapers_whole_wrong_responses_only() -> None:
    engine = toy.random_policy(10)
    made = stream("topr", baseline=0.25)
    (g,) = credited(made.credit, [scored(engine, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0])])
    exact(gradient(engine, [g], made.objective), gradient(engine, [g], objectives.score_function()))
    old = toy.random_policy(11)
    (late,) = stale(engine, old, [g])
    (late,) = [dataclasses.replace(late, notes={"advantage": late.notes["advantage"]})]  # mu is recorded, not "old"
    total, seen = torch.zeros((), dtype=torch.float64), set()
    for s, r in zip(late.scores, late.responses, strict=True):
        ratio = float((engine.logp(PROMPT, r) - old.logp(PROMPT, r)).detach().exp())
        w = 1.0 if s.value else min(ratio, 1.0)
        seen.add((bool(s.value), ratio < 1))
        total = total - w * (s.value - 0.25) * engine.logp(PROMPT, r) / len(late.responses)
    assert {(False, True), (True, False)} <= seen or len(seen) >= 3
    exact(gradient(engine, [late], made.objective), derivative(engine, total))


def test_topr_without_the_taper_is_reinforce_on_old_samples() -> None:
    engine, old = toy.random_policy(10), toy.random_policy(11)
    made = stream("topr", taper=False)
    (g,) = stale(engine, old, credited(made.credit, [scored(engine, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0])]))
    wrong = [r for s, r in zip(g.scores, g.responses, strict=True) if not s.value]
    assert any(engine.logp(PROMPT, r) < old.logp(PROMPT, r) for r in wrong)  # the taper would have weighed it less
    terms = [(s.value - 0.5) * engine.logp(PROMPT, r) for s, r in zip(g.scores, g.responses, strict=True)]
    exact(gradient(engine, [g], made.objective), derivative(engine, -sum(terms, torch.zeros(())) / len(terms)))


def test_topr_of_right_samples_is_weighted_imitation_whoever_sampled() -> None:
    engine = toy.random_policy(10)
    made = stream("topr")
    (g,) = stale(engine, toy.random_policy(11), credited(made.credit, [scored(engine, [1.0, 1.0, 1.0])]))
    want = 0.5 * gradient(engine, [g], objectives.likelihood(1.0))
    exact(gradient(engine, [g], made.objective), want)


def test_topr_needs_the_samplers_log_probs() -> None:
    engine = toy.random_policy(10)
    made = stream("topr")
    (g,) = credited(made.credit, [Group(PROMPT, (engine.responses(PROMPT)[0],), (Score(1.0),))])
    with pytest.raises(ArgumentError, match=r"log-probs recorded while sampling.*Use sampled or stored"):
        engine.backward([g], made.objective, count([g]))  # type: ignore[arg-type]


def test_topr_learns_from_one_log(tmp_path: Any) -> None:
    options = {"arguments": {"log_share": 0.2, "epochs": 10, "lr": 8.0}}
    loop = toy.loop(tmp_path / "run", "topr", Budget(flops=60_000.0), **options)
    before = toy.success(loop.engine)  # type: ignore[arg-type]
    loop.run()
    assert toy.success(loop.engine) > before + 0.3  # type: ignore[arg-type]
    assert loop.at.stage == 2


# -- Lite PPO ------------------------------------------------------------------------------------------------------


def test_lite_ppo_is_grpo_where_all_groups_are_alike_and_bounds_the_odd_one() -> None:
    alike = [toy.group([1.0, 0.0, 0.0, 0.0]), toy.group([0.0, 0.0, 1.0, 0.0])]
    for mine, theirs in zip(
        credited(stream("lite_ppo").credit, alike), credited(stream("grpo").credit, alike), strict=True
    ):
        np.testing.assert_allclose(mine.notes["advantage"].values[0], theirs.notes["advantage"].values[0], rtol=1e-9)
    odd = [toy.group([1.0] + [0.0] * 15), toy.group([1.0] * 8 + [0.0] * 8)]
    tops = [credited(stream(m).credit, odd)[0].notes["advantage"].values[0][0] for m in ("lite_ppo", "grpo")]
    std = np.concatenate([[s.value for s in g.scores] for g in odd]).std()
    assert tops == pytest.approx([15 / 16 / std, math.sqrt(15)], rel=1e-4)


def test_the_grid_of_normalisations_by_hand() -> None:
    groups = [toy.group([1.0, 0.0]), toy.group([1.0, 1.0])]
    std = math.sqrt(3 / 16)
    want = {
        "none": [1, 0, 1, 1],
        "group": [1, -1, 0, 0],
        "batch": [0.25 / std, -0.75 / std, 0.25 / std, 0.25 / std],
        "mixed": [0.5 / std, -0.5 / std, 0, 0],
    }
    for name, numbers in want.items():
        done = credited(stream("lite_ppo", normalisation=name).credit, groups)
        a = [x for g in done for x in g.notes["advantage"].values[0]]
        assert a == pytest.approx(numbers, rel=1e-5), name


def test_the_overlong_filter_takes_the_loss_and_keeps_the_statistics() -> None:
    g = toy.group([1.0, 0.0, 0.0])
    cut = dataclasses.replace(g.responses[2], stop="length")
    g = dataclasses.replace(g, responses=(*g.responses[:2], cut))
    (on,), (off,) = (credited(stream("lite_ppo", overlong=x).credit, [g]) for x in (True, False))
    assert np.array_equal(on.notes["advantage"].values[0], off.notes["advantage"].values[0])
    assert [bool(r.trained.any()) for r in on.responses] == [True, True, False]
    assert all(r.trained.all() for r in off.responses)


# -- RPG -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("normalised", [True, False])
def test_rpg_is_the_exact_gradient_off_policy(divergence: str, normalised: bool) -> None:
    """E[reward] - beta KL, from samples of old; one-token responses, every one with its probability."""
    engine, old, beta = toy.random_policy(12, 1, 4, 1), toy.random_policy(13, 1, 4, 1), 0.3
    arguments = {"divergence": divergence, "normalised": normalised, "beta": beta, "low": 1.0, "high": math.inf}
    objective = stream("rpg", dual=0.0, **arguments).objective
    got = torch.zeros_like(engine.weights["logits"])
    for r in engine.responses(PROMPT):
        noted = Group(PROMPT, (r,), (Score(reward(r.ids.tolist())),))
        (g,) = stale(engine, old, credited(credit.subtract(0.0), [noted]))
        got += float(old.logp(PROMPT, r).detach().exp()) * gradient(engine, [g], objective)
    x, y = (torch.log_softmax(e.weights["logits"][0, 0], -1) for e in (engine, old))
    y = y.detach()
    distance = (x.exp() * (x - y)).sum() if divergence == "reverse" else (y.exp() * (y - x)).sum()
    expected = engine.expected(PROMPT, lambda r: reward(r.ids.tolist()))
    exact(got, derivative(engine, beta * distance - expected))


@pytest.mark.parametrize(
    ("divergence", "normalised", "weight"),
    [
        ("reverse", True, lambda w, a, b: w * (a - b * (np.log(w) + 1))),
        ("reverse", False, lambda w, a, b: w * (a - b * np.log(w))),
        ("forward", True, lambda w, a, b: w * a + b),
        ("forward", False, lambda w, a, b: w * a + b * (1 - w)),
    ],
)
def test_rpg_weighs_each_token_as_the_paper_says(divergence: str, normalised: bool, weight: Any) -> None:
    engine = toy.random_policy(12)
    arguments = {"divergence": divergence, "normalised": normalised, "beta": 0.3, "low": 1.0, "high": math.inf}
    made = stream("rpg", dual=0.0, **arguments)
    (g,) = stale(engine, toy.random_policy(13), credited(made.credit, [scored(engine, [1.0, 0.0, 0.0])]))
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for i, a in enumerate(g.notes["advantage"].values[0]):
        logp = token_logps(engine, g, i)
        w = np.exp(logp.detach().numpy() - g.notes["old"].values[i])
        total, tokens = total - (torch.tensor(weight(w, a, 0.3)) * logp).sum(), tokens + len(w)
    exact(gradient(engine, [g], made.objective), derivative(engine, total / tokens))


def test_an_uncorrected_k3_is_not_the_gradient_off_policy() -> None:
    engine, old = toy.random_policy(12, 1, 4, 1), toy.random_policy(13, 1, 4, 1)
    x, y = (torch.log_softmax(e.weights["logits"][0, 0], -1) for e in (engine, old))
    want = derivative(engine, (x.exp() * (x - y.detach())).sum())
    for corrected in (True, False):
        got = torch.zeros_like(engine.weights["logits"])
        for r in engine.responses(PROMPT):
            (g,) = stale(engine, old, [Group(PROMPT, (r,))])
            objective = objectives.kl("old", "k3", corrected=corrected)
            got += float(old.logp(PROMPT, r).detach().exp()) * gradient(engine, [g], objective)
        assert torch.allclose(got, want, rtol=1e-9) is corrected


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradients_of_the_estimators_on_policy(estimator: str) -> None:
    """On samples of pi: k1 has none, k2 that of KL(pi || start), k3 that of KL(start || pi)."""
    engine, start = toy.random_policy(14, 1, 4, 1), toy.random_policy(15, 1, 4, 1)
    got = torch.zeros_like(engine.weights["logits"])
    for r in engine.responses(PROMPT):
        note = Note("token", (start.logp(PROMPT, r).detach().reshape(1).numpy(),))
        g = Group(PROMPT, (r,), notes={"logp:start": note})
        objective = objectives.kl("start", estimator)  # type: ignore[arg-type]
        got += float(engine.logp(PROMPT, r).detach().exp()) * gradient(engine, [g], objective)
    x, y = (torch.log_softmax(e.weights["logits"][0, 0], -1) for e in (engine, start))
    y = y.detach()
    distance = {"k1": 0 * x.sum(), "k2": (x.exp() * (x - y)).sum(), "k3": (y.exp() * (y - x)).sum()}[estimator]
    torch.testing.assert_close(got, derivative(engine, distance), rtol=1e-9, atol=1e-12)
    with pytest.raises(ArgumentError, match="expected 'k1', 'k2' or 'k3'"):
        objectives.kl("start", "k4")  # type: ignore[arg-type]


# -- DisCO ---------------------------------------------------------------------------------------------------------


def test_disco_on_policy_is_grpo_without_its_weight_of_difficulty() -> None:
    engine = toy.random_policy(16)
    rewards = [1.0, 0.0, 0.0, 0.0]
    made = stream("disco", tau=math.inf)
    (g,) = credited(made.credit, [scored(engine, rewards)])
    (other,) = credited(credit.divide_by_std(eps=0.0), credited(credit.center(), [scored(engine, rewards)]))
    grpo = gradient(engine, [other], stream("grpo").objective)
    exact(gradient(engine, [g], made.objective), grpo / math.sqrt(1 / 4 * 3 / 4))
    wide = gradient(engine, [g], stream("disco", tau=1e6).objective)
    torch.testing.assert_close(wide, gradient(engine, [g], made.objective), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("score", ["logp", "ratio"])
def test_disco_by_hand_with_a_group_of_one_kind_and_the_limit_on_the_kl(score: str) -> None:
    """The derivative of -(1/2) J + (beta/2) max(0, K - delta)^2, K over both groups, also when they are split."""
    engine, old = (toy.random_policy(seed, prompts=2, rows_tokens=1) for seed in (17, 18))
    made = stream("disco", score=score, beta=3.0, delta=0.01)
    tau = {"logp": 10.0, "ratio": 1.0}[score]
    groups = stale(engine, old, [scored(engine, [1.0, 0.0, 0.0, 1.0, 0.0]), scored(engine, [1.0, 1.0], prompt=1)])
    groups = credited(made.credit, groups)
    logps = [[token_logps(engine, g, i) for i in range(len(g.responses))] for g in groups]
    before = [[torch.tensor(x) for x in g.notes["old"].values] for g in groups]
    rho = [(x - y).exp().mean() if score == "ratio" else x.mean() for x, y in zip(logps[0], before[0], strict=True)]
    s = torch.stack(rho)
    j = s[[0, 3]].mean() - tau * (s[[1, 2, 4]] / tau).exp().mean().log()
    k = torch.cat([y - x for us, them in zip(logps, before, strict=True) for x, y in zip(us, them, strict=True)]).mean()
    assert float(k.detach()) > 0.02
    want = derivative(engine, -j / 2 + 1.5 * (k - 0.01).clamp(min=0) ** 2)
    exact(gradient(engine, groups, made.objective), want)


def test_disco_and_its_bad_inputs() -> None:
    for arguments, text in (
        ({"samples": 1}, "expected at least 2"),
        ({"tau": 0.0}, "tau=0.0: expected above 0"),
        ({"beta": 0.0}, "weight above 0"),
    ):
        with pytest.raises(ArgumentError, match=text):
            stream("disco", **arguments)


# -- all -----------------------------------------------------------------------------------------------------------

METHODS = ["cispo", "disco", "gspo", "lite_ppo", "psr_nsr", "reinforce", "reinforce_pp", "rpg", "topr"]


@pytest.mark.parametrize("method", METHODS)
def test_a_task_without_a_verifier_is_refused(method: str) -> None:
    with pytest.raises(ArgumentError, match="verifier"):
        recipes.build(method, dataclasses.replace(toy.TASK, verify=None))


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("reinforce", "baseline"),
        ("cispo", "deviation"),
        ("lite_ppo", "normalisation"),
        ("lite_ppo", "over"),
        ("rpg", "divergence"),
        ("disco", "score"),
    ],
)
def test_a_choice_that_there_is_not_is_named_with_those_there_are(method: str, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"{method}: {argument}='bach': expected '"):
        recipes.build(method, toy.TASK, **{argument: "bach"})
