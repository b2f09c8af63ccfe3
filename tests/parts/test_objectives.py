"""Identities of the objectives, exact on the enumerable policy or by hand-computed numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from equipoise import recipes, tasks
from equipoise.engine.batch import count, flatten
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives
from equipoise.protocols import Part
from equipoise.types import Batch, Group, Note, Objective, Outputs, Prompt, Response, Score, Totals
from toy import PROMPTS, group, random_policy

PROMPT = dataclasses.replace(PROMPTS[0], ids=(0,))


def reward(response: Response) -> float:
    """Some reward without symmetry."""
    return float(sum((i + 1) * t for i, t in enumerate(response.ids.tolist())) % 3)


def credited(part: Part, groups: list[Group]) -> list[Group]:
    return part(None, groups, None)[0]  # type: ignore[arg-type] - these parts use no context


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective) -> torch.Tensor:
    engine.discard()
    engine.backward(groups, objective, count(groups))
    grad = engine.gradient()
    engine.discard()
    return grad


def true_gradient(engine: TabularEngine, prompt: Prompt) -> torch.Tensor:
    (grad,) = torch.autograd.grad(engine.expected(prompt, reward), engine.weights["logits"])
    return grad


def tuples(engine: TabularEngine, n: int):
    """Every group of n responses with its probability."""
    every = [(r, float(engine.logp(PROMPT, r).detach().exp())) for r in engine.responses(PROMPT)]
    for chosen in itertools.product(every, repeat=n):
        responses = tuple(r for r, _ in chosen)
        scores = tuple(Score(reward(r), "right" if reward(r) > 0 else "wrong") for r in responses)
        yield Group(PROMPT, responses, scores), math.prod(p for _, p in chosen)


def expectation(engine: TabularEngine, n: int, part: Part, objective: Objective) -> torch.Tensor:
    return sum(p * gradient(engine, credited(part, [g]), objective) for g, p in tuples(engine, n))


def test_leave_one_out_is_an_unbiased_gradient_of_expected_reward() -> None:
    engine = random_policy(0)
    mean = expectation(engine, 2, credit.leave_one_out(), objectives.score_function())
    torch.testing.assert_close(-mean, true_gradient(engine, PROMPT), rtol=1e-10, atol=1e-12)


def test_centering_shrinks_the_unbiased_gradient_by_one_over_n() -> None:
    engine = random_policy(1)
    mean = expectation(engine, 2, credit.center(), objectives.score_function())
    torch.testing.assert_close(-mean, 0.5 * true_gradient(engine, PROMPT), rtol=1e-10, atol=1e-12)


def sampled_group(engine: TabularEngine, rewards: list[float], seed: int = 3) -> Group:
    """Responses of unlike lengths with given rewards."""
    every = engine.responses(PROMPT)
    order = np.random.default_rng(seed).permutation(len(every))
    responses = tuple(every[order[i % len(every)]] for i in range(len(rewards)))
    return Group(PROMPT, responses, tuple(Score(r, "right" if r > 0 else "wrong") for r in rewards))


def test_dr_grpo_is_rloo_scaled() -> None:
    engine, rewards = random_policy(2), [1.0, 0.0, 0.0, 1.0, 0.0]
    g, longest = sampled_group(engine, rewards), 7.0
    rloo = gradient(engine, credited(credit.leave_one_out(), [g]), objectives.score_function())
    dr = gradient(engine, credited(credit.center(), [g]), objectives.clipped(0.2, 0.2, longest))
    n = len(rewards)
    torch.testing.assert_close(dr, (n - 1) / n / longest * rloo, rtol=1e-12, atol=1e-15)


def test_grpo_gradient_for_binary_rewards_by_hand() -> None:
    engine, rewards = random_policy(4), [1.0, 0.0, 0.0, 1.0]
    g = sampled_group(engine, rewards)
    part = [credit.center(), credit.divide_by_std(eps=0.0)]
    groups = credited(part[1], credited(part[0], [g]))
    got = gradient(engine, groups, objectives.clipped(0.2, 0.2, "response"))
    means = [engine.logp(PROMPT, r) / len(r.ids) for r in g.responses]
    p = sum(rewards) / len(rewards)
    right = torch.stack([m for m, r in zip(means, rewards, strict=True) if r]).mean()
    wrong = torch.stack([m for m, r in zip(means, rewards, strict=True) if not r]).mean()
    (want,) = torch.autograd.grad(-math.sqrt(p * (1 - p)) * (right - wrong), engine.weights["logits"])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_rejection_sampling_with_a_sum_is_reinforce_without_baseline() -> None:
    engine, rewards = random_policy(5), [1.0, 0.0, 1.0]
    g = sampled_group(engine, rewards)
    advantage = Note("response", (np.array(rewards),))
    reinforce = gradient(engine, [dataclasses.replace(g, notes={"advantage": advantage})], objectives.score_function())
    kept = [Group(PROMPT, (r,), (s,)) for r, s in zip(g.responses, g.scores, strict=True) if s.status == "right"]
    likelihood = gradient(engine, kept, objectives.likelihood(1.0))  # sum over tokens / responses kept
    torch.testing.assert_close(likelihood * len(kept), reinforce * len(rewards), rtol=1e-12, atol=1e-15)


def test_dynamic_fine_tuning_maximises_mean_token_probability() -> None:
    engine = random_policy(6)
    g = sampled_group(engine, [0.0, 0.0, 0.0])
    got = gradient(engine, [g], objectives.likelihood("token", weigh="probability"))
    tokens = torch.cat([engine._outputs([Group(PROMPT, (r,))], engine.weights).logp for r in g.responses])
    (want,) = torch.autograd.grad(-tokens.exp().sum() / len(tokens), engine.weights["logits"])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weight", ["hard", "std"])
def test_nft_at_the_old_policy_is_dr_grpo_or_standardised(weight: str) -> None:
    engine, rewards = random_policy(7), [1.0, 0.0, 0.0, 0.0]
    g = sampled_group(engine, rewards)
    nft = gradient(engine, credited(credit.pass_rate(), [g]), objectives.implicit_negative(5.0, 1.0, weight))
    groups = credited(credit.center(), [g])
    if weight == "std":
        groups = credited(credit.divide_by_std(eps=0.0), groups)
    torch.testing.assert_close(nft, gradient(engine, groups, objectives.clipped(0.2, 0.2, 5.0)), rtol=1e-12, atol=1e-15)


def batch(
    logp: list[float], old: list[float] | None, advantage: list[float], **notes: list[float]
) -> tuple[Outputs, Batch]:
    """One response a token: what the objective does to each token shows in the per-group loss."""
    n = len(logp)
    x = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    as_tensor = lambda v: torch.tensor(v, dtype=torch.float64)  # noqa: E731
    index = torch.arange(n)
    return Outputs(x), Batch(
        response=index,
        group=index,
        advantage=as_tensor(advantage),
        behaviour=as_tensor(logp),
        old=None if old is None else as_tensor(old),
        reward=as_tensor(advantage),
        temperature=torch.ones(n),
        lengths=torch.ones(n, dtype=torch.float64),
        groups=n,
        notes={k: as_tensor(v) for k, v in notes.items()},
        totals=Totals(n, n, n),
    )


def slopes(objective: Objective, out: Outputs, b: Batch) -> list[float]:
    loss = objective.loss(out, b).per_group.sum()
    (grad,) = torch.autograd.grad(loss, out.logp)
    return [round(float(g) * b.totals.tokens, 10) for g in grad]


def test_clip_stops_the_gradient_outside_and_dual_clip_below() -> None:
    log = math.log
    # advantage, ratio: (+, inside), (+, above), (+, below), (-, inside), (-, below), (-, above), (-, far above)
    a = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    rho = [1.1, 1.3, 0.5, 0.9, 0.5, 1.3, 4.0]
    out, b = batch([log(r) for r in rho], [0.0] * 7, a)
    assert slopes(objectives.clipped(0.2, 0.2, "token"), out, b) == [-1.1, 0.0, -0.5, 0.9, 0.0, 1.3, 4.0]
    assert slopes(objectives.clipped(0.2, 0.2, "token", dual=3.0), out, b) == [-1.1, 0.0, -0.5, 0.9, 0.0, 1.3, 0.0]
    assert slopes(objectives.clipped(0.2, 0.28, "token"), out, b)[1] == 0.0


def test_truncated_importance_weighs_the_advantage_and_nothing_else() -> None:
    log = math.log
    out, b = batch([log(0.5), log(0.3), log(0.2), log(0.2)], None, [1.0, -1.0, 2.0, 1.0])
    mu = torch.tensor([log(0.5), log(0.6), log(0.05), math.nan], dtype=torch.float64)  # ratios 1, 1/2, 4, none
    b = dataclasses.replace(b, behaviour=mu)
    plain = objectives.clipped(0.2, 0.2, "token")
    corrected = objectives.truncated(plain, 3.0)
    assert slopes(plain, out, b) == [-1.0, 1.0, -2.0, -1.0]
    assert slopes(corrected, out, b) == [-1.0, 0.5, -6.0, -1.0]
    found = corrected.loss(out, b).metrics
    assert [float(found["importance"][0]), float(found["importance_cut"][0])] == pytest.approx([1 + 0.5 + 3 + 1, 1])
    with_kl = plain + 0.1 * objectives.kl("start")
    b = dataclasses.replace(b, notes={"logp:start": out.logp.detach() - 0.3})
    of_kl = [w - p for w, p in zip(slopes(with_kl, out, b), slopes(plain, out, b), strict=True)]
    whole = slopes(objectives.truncated(with_kl, 3.0), out, b)
    assert whole == pytest.approx([s + k for s, k in zip(slopes(corrected, out, b), of_kl, strict=True)])


def test_truncated_importance_is_taken_before_the_update_and_says_what_it_cannot_weigh() -> None:
    log = math.log
    out, b = batch([log(0.6)], [log(0.5)], [1.0])  # rho is 1.2, and old / mu is 2 whatever the policy is now
    b = dataclasses.replace(b, behaviour=torch.tensor([log(0.25)], dtype=torch.float64))
    assert slopes(objectives.truncated(objectives.clipped(1, math.inf, "token"), 4.0), out, b) == [-2.4]
    agreeing = dataclasses.replace(b, behaviour=torch.tensor([log(0.5)], dtype=torch.float64))
    assert slopes(objectives.truncated(objectives.clipped(1, math.inf, "token")), out, agreeing) == [-1.2]
    with pytest.raises(ArgumentError, match="expected at least 1"):
        objectives.truncated(objectives.clipped(0.2, 0.2), 0.5)
    with pytest.raises(ArgumentError, match="reads none"):
        objectives.truncated(objectives.likelihood())


def test_truncated_importance_goes_into_any_method_that_has_advantages() -> None:
    task = tasks.load("addition")
    grpo = recipes.build("grpo", task)
    [stream] = objectives.weighted(grpo, 3.0).stages[0].streams
    assert stream.objective is not None and "min(old/mu, 3) A" in stream.objective.formula
    assert "old/mu" not in grpo.stages[0].streams[0].objective.formula
    with pytest.raises(ArgumentError, match="--truncate 3 weighs advantages, and sft has none"):
        objectives.weighted(recipes.build("sft", task), 3.0)


def test_the_first_update_has_the_score_functions_gradient_and_ratio_one() -> None:
    out, b = batch([-1.0, -2.0, -0.5], None, [1.0, -2.0, 0.5])
    assert slopes(objectives.clipped(0.2, 0.2, "token"), out, b) == [-1.0, 2.0, -0.5]
    assert float(objectives.clipped(0.2, 0.2).loss(out, b).metrics["clip_ratio"][0]) == 0.0


def test_nft_straight_through_keeps_the_gradient_where_the_floor_holds() -> None:
    # wrong, q = 1/2, rho = 1.5: (1 - .75)/.5 = .5 < floor 1, so the value is -log 1 = 0 and the slope q/(1-q) rho w
    out, b = batch([math.log(1.5)], [0.0], [0.0], pass_rate=[0.5], right=[0.0])
    objective = objectives.implicit_negative(1.0, 1.0, "hard")
    assert float(objective.loss(out, b).per_group.sum().detach()) == pytest.approx(0.0)
    assert slopes(objective, out, b) == [pytest.approx(0.5 * 1.5)]


def test_k3_is_zero_where_policies_agree_and_never_negative() -> None:
    out, b = batch([-1.0, -2.0], None, [0.0, 0.0], **{"logp:start": [-1.0, -2.0]})
    assert objectives.kl("start", over="token").loss(out, b).per_group.tolist() == [0.0, 0.0]
    out, b = batch([-1.0, -2.0, -3.0], None, [0.0] * 3, **{"logp:start": [-2.0, -1.0, -2.9]})
    kl = objectives.kl("start", over="token").loss(out, b).per_group
    assert (kl > 0).all()
    want = (math.exp(-1) + 0, math.exp(1) - 2, math.exp(0.1) - 1.1)
    np.testing.assert_allclose(kl.detach().numpy() * 3, want, rtol=1e-12)


def test_k3_as_a_loss_has_the_gradient_of_kl_from_the_reference() -> None:
    engine, reference = (random_policy(seed, vocabulary=4, length=1) for seed in (8, 9))
    total, cross = torch.zeros_like(engine.weights["logits"]), 0.0
    for r in engine.responses(PROMPT):
        logp = reference.logp(PROMPT, r).detach()
        g = Group(PROMPT, (r,), notes={"logp:start": Note("token", (logp.reshape(1).numpy(),))})
        total += float(engine.logp(PROMPT, r).detach().exp()) * gradient(engine, [g], objectives.kl("start"))
        cross = cross - float(logp.exp()) * engine.logp(PROMPT, r)  # KL(reference || pi) less a constant
    (want,) = torch.autograd.grad(cross, engine.weights["logits"])
    torch.testing.assert_close(total, want, rtol=1e-10, atol=1e-12)


def pair(chosen: int, rejected: int) -> tuple[TabularEngine, Group]:
    engine = random_policy(10)
    every = engine.responses(PROMPT)
    return engine, Group(PROMPT, (every[chosen], every[rejected]), (Score(1.0), Score(0.0, "wrong")))


def with_reference(engine: TabularEngine, g: Group, shift: float = 0.0) -> Group:
    logp = [n + shift for n in engine.outputs([g], ["logp"])[0]["logp"]]
    return dataclasses.replace(g, notes={"logp:start": Note("token", tuple(logp))})


def test_dpo_at_the_reference_is_log_two_with_half_beta_gradient() -> None:
    engine, g = pair(1, 5)
    objective = objectives.preference(0.1)
    ready = with_reference(engine, g)
    metrics, _ = engine.backward([ready], objective, count([ready]))
    engine.discard()
    assert metrics["loss"][0] == pytest.approx(math.log(2))
    got = gradient(engine, [ready], objective)
    w, losing = (engine.logp(PROMPT, r) for r in g.responses)
    (want,) = torch.autograd.grad(-0.05 * (w - losing), engine.weights["logits"])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    swapped = dataclasses.replace(g, responses=g.responses[::-1])
    torch.testing.assert_close(gradient(engine, [with_reference(engine, swapped)], objective), -want)


def test_length_normalised_dpo_with_equal_lengths_is_dpo_with_a_smaller_beta() -> None:
    engine, _ = pair(1, 5)
    two = [r for r in engine.responses(PROMPT) if len(r.ids) == 2]
    g = with_reference(engine, Group(PROMPT, (two[0], two[3])), shift=-0.3)
    short = gradient(engine, [g], objectives.preference(0.2))
    torch.testing.assert_close(gradient(engine, [g], objectives.preference(0.4, per_token=True)), short)


def test_dpo_refuses_groups_that_are_no_pairs_and_a_beta_of_zero() -> None:
    engine, g = pair(1, 5)
    lonely = with_reference(engine, Group(PROMPT, g.responses[:1]))
    with pytest.raises(ArgumentError, match="two responses a group"):
        engine.backward([lonely], objectives.preference(0.1), count([lonely]))
    with pytest.raises(ArgumentError, match="beta=0"):
        objectives.preference(0.0)


def test_value_error_takes_the_worse_of_clipped_and_plain() -> None:
    _, b = batch([0.0, 0.0], None, [0.0, 0.0], value=[0.0, 0.0], **{"return": [1.0, 0.0]})
    out = Outputs(torch.zeros(2, dtype=torch.float64), {"value": torch.tensor([[0.5], [0.5]], dtype=torch.float64)})
    got = objectives.value_error(0.2).loss(out, b).per_group * 2
    # return 1: clipped 0.2 is worse, .5 * .8^2; return 0: plain 0.5 is worse, .5 * .5^2
    np.testing.assert_allclose(got.numpy(), [0.32, 0.125])


def test_denominators_by_hand() -> None:
    # lengths 1, 3 and totals of a larger step: 10 tokens, 4 responses
    g = group([1.0, 0.0], [1, 3])
    b = flatten([g], Totals(10, 4, 2), torch.device("cpu"), torch.float64)
    out = Outputs(torch.tensor([-1.0, -2.0, -3.0, -4.0], dtype=torch.float64))
    value = {
        over: float(objectives.likelihood(over).loss(out, b).per_group.sum()) for over in ("token", "response", 5.0)
    }
    assert value == {"token": 1.0, "response": pytest.approx((1 + 3) / 4), 5.0: pytest.approx(10 / 5 / 4)}


def test_a_weight_of_zero_leaves_nothing_and_sums_add_needs() -> None:
    both = objectives.clipped(0.2, 0.2) + 0.5 * objectives.kl("start")
    assert both.needs == {"advantage", "logp:start"} and not both.silent
    assert (objectives.clipped(0.2, 0.2) + 0.0 * objectives.kl("start")).needs == {"advantage"}
    out, b = batch([-1.0], None, [1.0], **{"logp:start": [-2.0]})
    parts = [objectives.clipped(0.2, 0.2), objectives.kl("start")]
    separate = parts[0].loss(out, b).per_group + 0.5 * parts[1].loss(out, b).per_group
    torch.testing.assert_close(both.loss(out, b).per_group, separate)


def test_bad_sizes_are_refused() -> None:
    for make in (
        lambda: objectives.clipped(1.1, 0.2),
        lambda: objectives.clipped(0.2, -0.1),
        lambda: objectives.clipped(0.2, 0.2, dual=1.0),
        lambda: objectives.likelihood(0.0),
        lambda: objectives.likelihood("tokens"),  # type: ignore[arg-type]
        lambda: objectives.implicit_negative(1.0, 0.0),
        lambda: objectives.value_error(0.0),
    ):
        with pytest.raises(ArgumentError, match="expected"):
            make()
