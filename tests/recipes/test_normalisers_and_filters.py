"""Beta normalisation, asymmetric weights, unlikeliness and rank filters: their identities."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, objectives, signals
from equipoise.protocols import Context, Part, chain
from equipoise.types import Cost, Group, Note, Objective, Score

PROMPT = dataclasses.replace(toy.PROMPTS[0], ids=(0,))


def context(engine: Any = None, seed: int = 0, step: int = 0) -> Context:
    return Context(engine, Key((seed,)), None, lambda *_: Cost(), step=step)  # type: ignore[arg-type]


def run(part: Part, groups: list[Group], ctx: Context | None = None) -> list[Group]:
    return part(ctx or context(), groups, None)[0]


def advantage(group: Group) -> np.ndarray:
    return credit.per_response(group, "advantage")


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective) -> torch.Tensor:
    engine.discard()
    engine.backward(groups, objective, count(groups, objective.totals))
    grad = engine.gradient()
    engine.discard()
    return grad


def unlike(engine: TabularEngine, rewards: list[float], seed: int = 3) -> Group:
    """Responses of unlike lengths with the sampler's log-probs, and these rewards."""
    every = engine.responses(PROMPT)
    order = np.random.default_rng(seed).permutation(len(every))
    responses = []
    for k in range(len(rewards)):
        r = every[order[k % len(every)]]
        own = engine.outputs([Group(PROMPT, (r,))], ["logp"])[0]["logp"][0]
        responses.append(dataclasses.replace(r, logprobs=own.astype(np.float32)))
    return Group(PROMPT, tuple(responses), tuple(Score(x, "right" if x > 0 else "wrong") for x in rewards))


# -- Beta normalisation -------------------------------------------------------------------------------------------


def rated(p: float) -> Group:
    return toy.group([1.0] * round(4 * p) + [0.0] * (4 - round(4 * p)))


def test_a_uniform_density_leaves_the_centred_reward() -> None:
    groups = [rated(0.5), rated(0.5)]
    for g in run(chain(credit.center(), credit.divide_by_density(1e6)), groups):
        np.testing.assert_allclose(advantage(g), [0.5, 0.5, -0.5, -0.5])


def test_the_density_of_three_halves_is_grpo_up_to_pi_over_eight() -> None:
    """Rates 1/4, 1/2, 3/4 have mean 1/2 and unbiased variance 1/16, hence alpha = beta = 3/2."""
    rates = [0.25, 0.5, 0.75]
    assert credit.beta_shape(rates) == pytest.approx((1.5, 1.5))
    for g, p in zip(
        run(chain(credit.center(), credit.divide_by_density(1e6)), list(map(rated, rates))), rates, strict=True
    ):
        r = np.array([s.value for s in g.scores])
        np.testing.assert_allclose(advantage(g), math.pi / 8 * (r - p) / math.sqrt(p * (1 - p)), rtol=1e-12)


def test_the_shape_by_hand_and_never_below_uniform() -> None:
    m, v = 0.5, 0.125  # rates 1/4 and 3/4: unbiased variance 1/8
    assert credit.beta_shape([0.25, 0.75]) == pytest.approx((1 + (m * m / v - 1) * m / 3,) * 2)
    assert credit.beta_shape([0.0, 1.0]) == (1.0, 1.0)  # variance 1/2 above m(1-m): a, b below 0
    assert credit.beta_shape([0.7]) == credit.beta_shape([0.4, 0.4]) == (1.0, 1.0)


def test_solved_and_hopeless_prompts_get_nothing_and_the_factor_is_bounded() -> None:
    groups = run(chain(credit.center(), credit.divide_by_density(1e6)), [rated(0.0), rated(1.0), rated(0.25)])
    assert not advantage(groups[0]).any() and not advantage(groups[1]).any() and advantage(groups[2]).all()
    assert credit.inverse_density(0.001, 50.0, 50.0, 1e6) == pytest.approx(1e6)
    assert credit.inverse_density(0.001, 50.0, 50.0, 7.0) == pytest.approx(7.0)


def test_rewards_outside_the_unit_interval_are_refused_by_prompt() -> None:
    with pytest.raises(ArgumentError, match=r"'p0' has rewards from 0 to 2.*\[0, 1\]"):
        run(chain(credit.center(), credit.divide_by_density(10.0)), [toy.group([2.0, 0.0])])
    with pytest.raises(ArgumentError, match=r"limit=0.*above 0"):
        credit.divide_by_density(0)


# -- asymmetric weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "weight"), [(1, 0.288), (7, 0.907)])
def test_the_kl_of_a_right_response_weighs_less_the_harder_the_prompt(right: int, weight: float) -> None:
    (g,) = run(chain(credit.center(), credit.ease_kl(2.71828)), [toy.group([1.0] * right + [0.0] * (8 - right))])
    got = credit.per_response(g, "kl_weight")
    assert got[:right] == pytest.approx(weight, abs=5e-4) and (got[right:] == 1).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_groups_of_one_kind_keep_the_whole_kl(value: float) -> None:
    (g,) = run(chain(credit.center(), credit.ease_kl(2.71828)), [toy.group([value] * 4)])
    assert (credit.per_response(g, "kl_weight") == 1).all()


def test_long_wrong_responses_weigh_more() -> None:
    g = toy.group([1.0, 0.0, 0.0, 0.0], [10, 1010, 10, 4])
    (got,) = run(chain(credit.center(), credit.press_long_wrong(1.00001)), [g])
    np.testing.assert_allclose(advantage(got), [0.75, -0.25 * (2 - 1.00001**-1000.0), -0.25, -0.25])
    assert advantage(got)[1] / -0.25 == pytest.approx(1.010, abs=5e-4)


def test_without_a_right_response_or_at_base_1_length_changes_nothing() -> None:
    scored = dataclasses.replace(toy.group([-1.0, -2.0], [9, 2]))
    for base, g in ((2.0, scored), (1.0, toy.group([1.0, 0.0], [2, 9]))):
        plain, pressed = run(credit.center(), [g]), run(chain(credit.center(), credit.press_long_wrong(base)), [g])
        np.testing.assert_array_equal(advantage(plain[0]), advantage(pressed[0]))


def test_the_weighted_kl_is_the_mean_of_weighted_responses() -> None:
    """By autograd: mean_i w_i (1/|y_i|) sum_t k3_it."""
    engine = toy.random_policy(1)
    engine.named["start"] = {k: torch.zeros_like(v.detach()) for k, v in engine.weights.items()}
    g = unlike(engine, [1.0, 0.0, 0.0])
    w = np.array([0.3, 1.0, 2.0])
    anchor = engine.outputs([g], ["logp"], "start")[0]["logp"]
    g = credit.noted(g, kl_weight=Note("response", (w,)), **{"logp:start": Note("token", anchor)})
    got = gradient(engine, [g], objectives.kl("start", "k3", weight="kl_weight"))
    terms = []
    for r, ref, weight in zip(g.responses, anchor, w, strict=True):
        x = torch.tensor(ref) - engine._outputs([Group(PROMPT, (r,))], engine.weights).logp
        terms.append(weight * (x.exp() - 1 - x).mean() / 3)
    (want,) = torch.autograd.grad(torch.stack(terms).sum(), engine.weights["logits"])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


# -- the unlikely -------------------------------------------------------------------------------------------------


def test_weight_0_is_grpo_and_right_responses_gain_less_the_likelier_they_are() -> None:
    engine = toy.random_policy(2)
    g = unlike(engine, [1.0, 1.0, 1.0, 0.0, 0.0])
    grpo = chain(credit.center(), credit.divide_by_std())
    plain, same = run(grpo, [g]), run(chain(credit.penalise_likely(0.0), grpo), [g])
    np.testing.assert_array_equal(advantage(plain[0]), advantage(same[0]))
    (shaped,) = run(chain(credit.penalise_likely(0.25), grpo), [g])
    means = [float(np.mean(r.logprobs)) for r in g.responses]
    right = sorted(range(3), key=lambda i: means[i])
    assert np.all(np.diff(advantage(shaped)[right]) < 0)
    ranks = [sorted(means).index(m) for m in means]
    assert [s.value for s in shaped.scores] == pytest.approx(
        [(i < 3) * (1 - 0.25 * k / 5) for i, k in enumerate(ranks)]
    )


def test_copies_of_a_response_are_ranked_alike() -> None:
    g = toy.group([1.0, 1.0, 0.0])
    assert [s.value for s in run(credit.penalise_likely(0.3), [g])[0].scores] == pytest.approx([0.9, 0.9, 0.0])


def test_groups_of_one_kind_are_dropped_before_the_ranks_can_tell_them_apart() -> None:
    made = toy.recipe("unlikeliness")
    ctx = context()
    kept, _ = credit.keep_mixed()(ctx, [toy.group([1.0, 1.0]), toy.group([1.0, 0.0])], None)
    assert len(kept) == len(ctx.dropped) == 1 and "keep_mixed" in made.stages[0].streams[0].source.name


# -- rank filters -------------------------------------------------------------------------------------------------


def learned_from(g: Group) -> list[int]:
    return [i for i, r in enumerate(g.responses) if r.trained.any()]


def test_ranks_keep_the_best_a_random_other_or_the_worst() -> None:
    g = toy.group([0.2, 0.9, -0.5, 0.4])
    assert learned_from(run(credit.keep_ranked("best"), [g])[0]) == [1]
    assert learned_from(run(credit.keep_ranked("best+worst"), [g])[0]) == [1, 2]
    assert learned_from(run(credit.keep_ranked("all"), [g])[0]) == [0, 1, 2, 3]
    second = [learned_from(run(credit.keep_ranked("best+random"), [g], context(step=s))[0]) for s in range(60)]
    assert all(len(x) == 2 and 1 in x for x in second) and {i for x in second for i in x} == {0, 1, 2, 3}


def test_failed_verdicts_are_never_kept() -> None:
    g = toy.group([0.0, 1.0, 0.0])
    g = dataclasses.replace(g, scores=(Score(5.0, "timeout"), *g.scores[1:]))
    assert learned_from(run(credit.keep_ranked("best"), [g])[0]) == [1]


def test_the_scorer_errs_by_its_deviation_and_the_same_way_each_time() -> None:
    texts = [str(i) for i in range(2000)]
    g = Group(PROMPT, tuple(toy.response([1, 0], text=t) for t in texts), tuple(Score(1.0) for _ in texts))
    (one,), (two,) = run(signals.noisy(0.5), [g]), run(signals.noisy(0.5), [g], context(step=7))
    errors = np.array([s.value - s.parts["true"] for s in one.scores])
    assert one.scores == two.scores and all(s.parts["true"] == 1.0 for s in one.scores)
    assert abs(errors.mean()) < 0.05 and errors.std() == pytest.approx(0.5, rel=0.05)
    (other,) = run(signals.noisy(0.5), [g], context(seed=1))
    assert other.scores != one.scores
    assert [s.value for s in run(signals.noisy(0.0), [g])[0].scores] == [1.0] * 2000


def test_r_squared_is_over_what_is_learned_from() -> None:
    scores = [(1.0, 1.0), (2.0, 2.0), (0.0, 9.0)]
    g = toy.group([1.0, 2.0, 0.0])
    parts = tuple(Score(m, parts={"model": m, "true": t}) for m, t in scores)
    g = dataclasses.replace(g, scores=parts)
    assert credit.explained([credit.untrained(g, np.array([False, False, True]))]) == pytest.approx(1.0)
    assert credit.explained([g]) == pytest.approx(np.corrcoef(np.array(scores).T)[0, 1] ** 2)
    assert credit.explained([credit.untrained(g, np.array([False, True, True]))]) == 0.0


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("bnpo", {"limit": -1.0}, "limit=-1"),
        ("apo", {"steepness": 0.0}, "steepness=0.*above 0"),
        ("apo", {"base": 0.5}, "base=0.5.*at least 1"),
        ("unlikeliness", {"weight": 2.0}, r"weight=2.*\[0, 1\]"),
        ("pf_ppo", {"kept": "worst"}, "kept='worst'.*'best\\+worst'"),
        ("pf_ppo", {"deviation": -1.0}, "deviation=-1.*at least 0"),
    ],
)
def test_arguments_that_make_no_sense(method: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"{method}.*{said}"):
        toy.recipe(method, **arguments)


def test_a_kl_of_weight_0_asks_nothing_of_the_start_policy() -> None:
    assert not any("start" in n for m in ("apo", "unlikeliness", "pf_ppo") for n in toy.recipe(m, kl=0.0).needs)
