"""Regression on log-ratios, memories, steps: one oracle for what KL-regularised methods must reach, and identities."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise.engine.batch import count, flatten
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import Context, Part, chain
from equipoise.record.metrics import describe
from equipoise.tasks import addition
from equipoise.types import Group, Note, Objective, Prompt, Response, Score
from toy import PROMPTS, random_policy

PROMPT = dataclasses.replace(PROMPTS[0], ids=(0,))
BETA = 0.5


def reward(response: Response) -> float:
    """Some reward without symmetry."""
    return float(sum((i + 1) * t for i, t in enumerate(response.ids.tolist())) % 3)


def context(engine: TabularEngine, **stores: Any) -> Context:
    return Context(engine, Key((0,)), None, lambda *_: None, stores=stores)  # type: ignore[arg-type,return-value]


def anchored(seed: int, **options: Any) -> TabularEngine:
    """A random start policy, kept as "start"."""
    engine = random_policy(seed, length=3, **options)
    engine.combine("start", {"current": 1.0})
    return engine


def moved(engine: TabularEngine, seed: int) -> TabularEngine:
    """The same, with other weights than "start"."""
    with torch.no_grad():
        logits = engine.weights["logits"]
        logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return engine


def scored(engine: TabularEngine, responses: list[Response], status: str | None = None) -> list[Group]:
    """Each response a group of its own, with log-probs of the present policy and what "start" says of it."""
    groups = []
    for r in responses:
        s = Score(reward(r), status or ("right" if reward(r) > 0 else "wrong"))  # type: ignore[arg-type]
        groups.append(Group(PROMPT, (r,), (s,)))
    now = engine.outputs(groups, ["logp"])
    start = engine.outputs(groups, ["logp", "logsumexp"], "start")
    return [
        dataclasses.replace(
            g,
            responses=(dataclasses.replace(g.responses[0], logprobs=n["logp"][0].astype(np.float32)),),
            notes={f"{k}:start": Note("token", v) for k, v in s.items()},
        )
        for g, n, s in zip(groups, now, start, strict=True)
    ]


def merged(groups: list[Group]) -> Group:
    """One group of all."""
    return dataclasses.replace(
        groups[0],
        responses=tuple(g.responses[0] for g in groups),
        scores=tuple(g.scores[0] for g in groups),
        notes={
            k: dataclasses.replace(n, values=tuple(g.notes[k].values[0] for g in groups))
            for k, n in groups[0].notes.items()
        },
    )


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective) -> torch.Tensor:
    engine.discard()
    engine.backward(groups, objective, count(groups))
    grad = engine.gradient()
    engine.discard()
    return grad


def slope(engine: TabularEngine, value: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, engine.weights["logits"], retain_graph=True)[0]


def objective_of(method: str, **arguments: Any) -> Objective:
    """What a recipe trains on at the end."""
    found = toy.recipe(method, **arguments).stages[-1].streams[0].objective
    assert found is not None
    return found


# -- the common oracle -----------------------------------------------------------------------------------------------


def exact(engine: TabularEngine, method: str) -> torch.Tensor:
    """The expected loss of a method on every response there is: on-policy ones weighed by pi, the others evenly."""
    every = scored(engine, engine.responses(PROMPT))
    weights = torch.full((len(every),), 1.0, dtype=torch.float64)
    own = torch.softmax(engine.distribution(PROMPT).detach(), 0) * len(every)
    if method == "rloo":
        part = chain(credit.subtract_kl("start", BETA), credit.subtract(0.0))
        every, weights, objective = part(context(engine), every, None)[0], own, objectives.score_function()
    elif method == "a_star_po":
        start = engine.distribution(PROMPT, "start").detach().exp().numpy()
        v = BETA * math.log(sum(p * math.exp(reward(r) / BETA) for p, r in zip(start, engine.responses(PROMPT))))  # noqa: B905
        every = [credit.noted(g, advantage=Note("response", (np.array([g.scores[0].value - v]),))) for g in every]
        weights, objective = own, objective_of(method, b1=BETA, b2=BETA)
    elif method == "kl_as_bayes":  # an even sampler, so that the weights are exactly p*
        even = [dataclasses.replace(r, logprobs=np.zeros(len(r.ids), np.float32)) for r in engine.responses(PROMPT)]
        group = dataclasses.replace(merged(every), responses=tuple(even))
        every, objective = credit.posterior_weights(BETA, centred=False)(context(engine), [group], None)[0], None
    else:
        objective = objective_of(method, beta=BETA)
        every = [merged(every)] if method == "copg" else every
    objective = objective or objective_of(method, beta=BETA)
    batch = flatten(every, count(every), torch.device("cpu"), torch.float64)
    out = engine._outputs(every, engine.weights, ["logsumexp"])
    loss = objective.loss(out, batch).per_group
    return (loss * weights[: len(loss)]).sum()


def divergence(engine: TabularEngine) -> float:
    """KL(pi || p*)."""
    logp, target = engine.distribution(PROMPT).detach(), engine.target(PROMPT, reward, BETA)
    return float((logp.exp() * (logp - target)).sum())


@pytest.mark.parametrize("method", ["rloo", "copg", "a_star_po", "shiq", "dqo", "kl_as_bayes"])
def test_with_exact_expectations_every_method_reaches_the_same_optimum(method: str) -> None:
    """p* = start exp(r / b) / Z: KL(pi || p*) falls from far to (nearly) 0. 2205.11275."""
    engine = anchored(3, heads=("value",))
    assert divergence(engine) > 0.3
    parameters = list(engine.weights.values())
    optimiser = torch.optim.Adam(parameters, lr=0.1, betas=(0.9, 0.95))
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        optimiser.zero_grad()
        exact(engine, method).backward()
        optimiser.step()
    assert divergence(engine) < 1e-3, method


def test_regularised_reward_and_divergence_from_the_optimum_add_up_to_a_constant() -> None:
    """J(pi) + b KL(pi || p*) = b log Z, whatever pi."""
    sums = []
    for seed in range(4):
        engine = moved(anchored(4), seed)
        logp, start = engine.distribution(PROMPT).detach(), engine.distribution(PROMPT, "start").detach()
        kl = float((logp.exp() * (logp - start)).sum())
        sums.append(float(engine.expected(PROMPT, reward).detach()) - BETA * kl + BETA * divergence(engine))
    np.testing.assert_allclose(sums, sums[0], rtol=1e-10)
    start = [
        float(engine.logp(PROMPT, r, "start").detach().exp()) * math.exp(reward(r) / BETA)
        for r in engine.responses(PROMPT)
    ]
    assert sums[0] == pytest.approx(BETA * math.log(sum(start)))


def test_without_regularisation_the_policy_collapses() -> None:
    """b = 0: the exact policy gradient drives the entropy to 0, where one response is the best."""
    engine = anchored(5)

    def entropy() -> float:
        logp = engine.distribution(PROMPT).detach()
        return -float((logp.exp() * logp).sum())

    before = entropy()
    optimiser = torch.optim.Adam([engine.weights["logits"]], lr=0.2)
    objective = objectives.residual(0.0)
    for _ in range(300):
        every = scored(engine, engine.responses(PROMPT))
        every = [dataclasses.replace(g, scores=(Score(k / len(every)),)) for k, g in enumerate(every)]
        every = credit.subtract(0.0)(context(engine), every, None)[0]
        batch = flatten(every, count(every), torch.device("cpu"), torch.float64)
        optimiser.zero_grad()
        loss = objective.loss(engine._outputs(every, engine.weights), batch).per_group * len(every)
        (loss * engine.distribution(PROMPT).detach().exp()).sum().backward()
        optimiser.step()
    assert before > 1.0 and entropy() < 0.1


# -- a_star_po -------------------------------------------------------------------------------------------------------


def test_optimal_advantage_regression_is_reinforce_with_a_fixed_baseline_and_the_kl_in_the_reward() -> None:
    engine, v, b2 = moved(anchored(6), 1), 0.7, 0.3
    (g,) = scored(engine, [engine.responses(PROMPT)[9]])
    r = g.scores[0].value
    g = credit.noted(g, advantage=Note("response", (np.array([r - v]),)))
    logp = engine.logp(PROMPT, g.responses[0])
    d = float(logp.detach() - engine.logp(PROMPT, g.responses[0], "start").detach())
    got = gradient(engine, [g], objective_of("a_star_po", b2=b2))
    torch.testing.assert_close(got, -(r - v - b2 * d) * slope(engine, logp), rtol=1e-6, atol=1e-9)
    plain = gradient(engine, [g], objective_of("a_star_po", b2=0.0))
    torch.testing.assert_close(plain, -(r - v) * slope(engine, logp), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("b1", "value"), [(0.5, 0.5 * math.log((3 + math.exp(2)) / 4)), (math.inf, 0.25), (1e-3, 1 - 1e-3 * math.log(4))]
)
def test_values_of_stored_samples_by_hand(b1: float, value: float) -> None:
    store, own = toy.group([1.0, 0.0, 0.0, 0.0]), toy.group([1.0])
    part = credit.subtract_soft_value("reference", b1)
    (g,), _ = part(context(random_policy(0), reference=[store]), [own], None)
    assert float(g.notes["soft_value"].values[0][0]) == pytest.approx(value)
    assert float(g.notes["advantage"].values[0][0]) == pytest.approx(1 - value)


def test_values_need_the_prompt_in_the_store_and_the_second_stage_draws_there() -> None:
    part, own = credit.subtract_soft_value("reference", 0.5), toy.group([1.0])
    other = dataclasses.replace(own, prompt=PROMPTS[3])
    with pytest.raises(ArgumentError, match=r"'p0' has no scored response.*prompts_of"):
        part(context(random_policy(0), reference=[other]), [own], None)
    wrong = dataclasses.replace(toy.group([0.0, 0.0]), prompt=PROMPTS[4])
    ctx = context(random_policy(0), reference=[other, wrong, other])
    assert [p.id for p in sources.prompts_of("reference")(ctx)] == ["p3", "p4"]
    assert [p.id for p in sources.prompts_of("reference", solved=True)(ctx)] == ["p3"]


# -- copg ------------------------------------------------------------------------------------------------------------


def several(engine: TabularEngine, places: tuple[int, ...] = (1, 4, 9, 13)) -> Group:
    every = engine.responses(PROMPT)
    return merged(scored(engine, [every[i] for i in places]))


def regularised(engine: TabularEngine, g: Group, beta: float) -> np.ndarray:
    """r - b D."""
    gap = [float((engine.logp(PROMPT, r) - engine.logp(PROMPT, r, "start")).detach()) for r in g.responses]
    return np.array([s.value for s in g.scores]) - beta * np.array(gap)


def test_contrastive_policy_gradient_is_leave_one_out_on_the_regularised_reward() -> None:
    engine = moved(anchored(7), 2)
    g = several(engine)
    e = regularised(engine, g, 0.3)
    others = [(e.sum() - e[i]) / (len(e) - 1) for i in range(len(e))]
    terms = [(e[i] - others[i]) * engine.logp(PROMPT, r) for i, r in enumerate(g.responses)]
    got = gradient(engine, [g], objective_of("copg", beta=0.3))
    torch.testing.assert_close(got, -slope(engine, torch.stack(terms).mean()), rtol=1e-6, atol=1e-9)


def test_contrastive_policy_gradient_of_a_quarter_is_ipo() -> None:
    engine, b = moved(anchored(8), 3), 0.2
    g = several(engine, (2, 11))
    g = dataclasses.replace(g, scores=(Score(0.25), Score(-0.25, "wrong")))
    w, losing = (engine.logp(PROMPT, r) - engine.logp(PROMPT, r, "start").detach() for r in g.responses)
    got = gradient(engine, [g], objective_of("copg", beta=b))
    torch.testing.assert_close(got, slope(engine, b / 4 * (w - losing - 1 / (2 * b)) ** 2), rtol=1e-6, atol=1e-9)


# -- shiq ------------------------------------------------------------------------------------------------------------


def loss_of(engine: TabularEngine, groups: list[Group], objective: Objective) -> float:
    metrics, _ = engine.backward(groups, objective, count(groups))
    engine.discard()
    return metrics["loss"][0]


def test_shifted_q_at_the_start_is_the_reward_to_go_and_feels_a_shift_of_the_logits() -> None:
    engine, b = anchored(9), 0.4
    every = engine.responses(PROMPT)
    groups, objective = scored(engine, every), objective_of("shiq", beta=b)
    want = sum(len(r.ids) * reward(r) ** 2 for r in every) / len(every) / (2 * b)
    assert loss_of(engine, groups, objective) == pytest.approx(want)
    before = engine.distribution(PROMPT).detach()
    with torch.no_grad():
        engine.weights["logits"] += 0.5  # the same for every token: no other policy
    torch.testing.assert_close(engine.distribution(PROMPT).detach(), before)
    shifted = sum(len(r.ids) * (reward(r) - b * 0.5) ** 2 for r in every) / len(every) / (2 * b)
    assert loss_of(engine, groups, objective) == pytest.approx(shifted)


# -- dqo -------------------------------------------------------------------------------------------------------------


def with_values(engine: TabularEngine) -> TabularEngine:
    with torch.no_grad():
        v = engine.weights["head:value"]
        v += torch.randn(v.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return engine


def test_direct_q_of_one_token_is_the_squared_residual_with_a_value() -> None:
    """(r - V - b D)^2, half of it for each of policy and value."""
    engine = with_values(moved(anchored(10, heads=("value",)), 4))
    (g,) = scored(engine, [dataclasses.replace(engine.responses(PROMPT)[0], logprobs=None)])
    assert len(g.responses[0].ids) == 1
    b, r = 0.3, g.scores[0].value
    d = engine.logp(PROMPT, g.responses[0]) - engine.logp(PROMPT, g.responses[0], "start").detach()
    v = engine.weights["head:value"][0, 0]
    got = gradient(engine, [g], objective_of("dqo", beta=b))
    torch.testing.assert_close(got, slope(engine, (r - v.detach() - b * d) ** 2 / (2 * b)), rtol=1e-6, atol=1e-9)
    engine.backward([g], objective_of("dqo", beta=b), count([g]))
    assert engine.weights["head:value"].grad is not None
    assert float(engine.weights["head:value"].grad[0, 0]) == pytest.approx(-float((r - v - b * d).detach()))


def test_lambda_returns_by_hand_and_no_gradient_through_targets() -> None:
    """Three tokens; expected residuals computed backwards by hand."""
    engine = with_values(moved(anchored(11, heads=("value",)), 5))
    response = next(r for r in engine.responses(PROMPT) if len(r.ids) == 3 and reward(r) > 0)
    (g,) = scored(engine, [response])
    b, lam, vf, r = 0.3, 0.6, 0.8, g.scores[0].value
    out = engine._outputs([g], engine.weights)
    d = out.logp - torch.tensor(np.asarray(g.notes["logp:start"].values[0]))
    v, dd = out.heads["value"][:, 0], d.detach()
    g2 = r - b * dd[2]
    g1 = -b * dd[1] + (1 - lam) * v[2].detach() + lam * g2
    g0 = -b * dd[0] + (1 - lam) * v[1].detach() + lam * g1
    to_policy = [(b * d[0] - (g1 - v[0])), (b * d[1] - (g2 - v[1])), (b * d[2] - (r - v[2]))]
    policy = sum((b * d[t] - (e - b * d[t]).detach() * -1) ** 2 for t, e in enumerate(to_policy)) / (2 * b)
    value = sum((v[t] - target) ** 2 for t, target in enumerate((g0, g1, g2))) * vf / 2
    objective = objectives.value_residual(b, lam, vf, corrected=False)
    got = gradient(engine, [g], objective)
    torch.testing.assert_close(got, slope(engine, policy), rtol=1e-6, atol=1e-9)
    engine.backward([g], objective, count([g]))
    (want,) = torch.autograd.grad(value, engine.weights["head:value"])
    torch.testing.assert_close(engine.weights["head:value"].grad, want, rtol=1e-6, atol=1e-9)


def test_returns_of_unlikely_tokens_count_less() -> None:
    engine = anchored(12, heads=("value",))
    response = next(r for r in engine.responses(PROMPT) if len(r.ids) == 2)
    (g,) = scored(engine, [response])
    double = g.responses[0].logprobs
    assert double is not None
    (likely,) = [
        dataclasses.replace(g, responses=(dataclasses.replace(g.responses[0], logprobs=double + math.log(2)),))
    ]
    value = {c: loss_of(engine, [likely], objectives.value_residual(0.3, corrected=c)) for c in (False, True)}
    plain, r = value[False], g.scores[0].value
    # D = 0 and V = 0: both tokens have the same error; the first one's weight is pi/sampler of the second, 1/2
    assert plain == pytest.approx(2 * (r**2 / 0.6 + r**2 / 2)) and value[True] == pytest.approx(plain * 0.75)


# -- bcpg_nsa --------------------------------------------------------------------------------------------------------


def spared(g: Group, right: list[list[float]], coefficient: float) -> Group:
    labelled = [dataclasses.replace(s, steps=np.array(x, np.float32)) for s, x in zip(g.scores, right, strict=True)]
    part = credit.spare_right_steps(coefficient)
    return part(None, [dataclasses.replace(g, scores=tuple(labelled))], None)[0][0]  # type: ignore[arg-type]


def test_mining_of_one_changes_nothing_and_zero_leaves_right_steps_alone() -> None:
    engine = moved(anchored(13), 6)
    every = [r for r in engine.responses(PROMPT) if len(r.ids) == 3][:3]
    start = scored(engine, every)
    g = dataclasses.replace(merged(start), scores=(Score(1.0), Score(0.0, "wrong"), Score(0.0, "wrong")))
    recorded = engine.outputs([g], ["logp"], "start")[0]["logp"]
    g = dataclasses.replace(
        g,
        responses=tuple(
            dataclasses.replace(r, logprobs=np.asarray(x, dtype=np.float32))
            for r, x in zip(g.responses, recorded, strict=True)
        ),
    )
    labels, b = [[1, 1, 1], [1, -1, -1], [-1, 1, -1]], 0.1
    e = regularised(engine, g, b)
    e = e - e.mean()
    assert e[0] > 0 and max(e[1:]) < 0
    contrast = gradient(engine, [g], objective_of("copg", beta=b))
    got = gradient(engine, [spared(g, labels, 1.0)], objective_of("bcpg_nsa", beta=b))
    torch.testing.assert_close(got, contrast * 2 / 3, rtol=1e-5, atol=1e-7)
    tokens = engine._outputs([g], engine.weights).logp.reshape(3, 3)
    for c in (0.0, -0.5):
        weights = torch.tensor([[1, 1, 1], [c, 1, 1], [1, c, 1]], dtype=torch.float64)
        want = slope(engine, -(torch.tensor(e)[:, None] * weights * tokens).sum() / 3)
        got = gradient(engine, [spared(g, labels, c)], objective_of("bcpg_nsa", beta=b))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_a_wrong_response_that_is_pushed_up_by_the_tie_to_the_sampler_is_not_reweighted() -> None:
    engine = moved(anchored(13), 6)
    every = [r for r in engine.responses(PROMPT) if len(r.ids) == 3][:2]
    g = dataclasses.replace(merged(scored(engine, every)), scores=(Score(1.0), Score(0.0, "wrong")))
    unlikely = dataclasses.replace(g.responses[0], logprobs=np.full(3, -9.0, np.float32))  # D is large: e < 0
    g = dataclasses.replace(g, responses=(unlikely, g.responses[1]))
    plain = gradient(engine, [spared(g, [[1, 1, 1]] * 2, 1.0)], objective_of("bcpg_nsa", beta=0.5))
    mined = gradient(engine, [spared(g, [[1, 1, 1]] * 2, 0.0)], objective_of("bcpg_nsa", beta=0.5))
    assert float(plain.abs().max()) > 0.1
    torch.testing.assert_close(mined, plain)


def judged(flip: float, text: str = "1 2", n: int = 1) -> list[np.ndarray]:
    engine = toy.engine()
    response = toy.response([int(x) for x in text.split()] + [0], text=text)
    g = Group(PROMPT, (response,) * n, (Score(0.0, "wrong"),) * n)
    (after,), _ = signals.steps(toy.TASK, flip)(context(engine), [g], None)
    return [s.steps for s in after.scores if s.steps is not None]


def test_steps_are_labelled_token_by_token_and_flipped_at_the_rate_asked_for() -> None:
    assert judged(0.0)[0].tolist() == [1.0, -1.0, 0.0]  # prompt 0 wants token 1; the end is no step
    assert judged(1.0)[0].tolist() == [-1.0, 1.0, 0.0]
    noisy = np.array(judged(0.3, n=2000))
    assert np.mean(noisy[:, 0] < 0) == pytest.approx(0.3, abs=0.04)
    assert np.array_equal(noisy, np.array(judged(0.3, n=2000)))


def test_the_columns_of_an_addition_are_its_steps() -> None:
    prompt = Prompt("x", answer=825, meta={"a": 357, "b": 468})
    text = "7+8=15, 5+6=11, 3+4+1=8: 815"
    found = [(text[a:b], ok) for a, b, ok in addition.steps(prompt, text)]
    assert found == [("7+8=15", True), ("5+6=11", False), ("3+4+1=8", True), ("815", False)]
    assert all(ok for *_, ok in addition.steps(prompt, addition.demonstrate(prompt)))
    assert not any(ok for *_, ok in addition.steps(prompt, "5+6+1=12, 7+8=15"))  # right columns, in the wrong places


# -- rrhf ------------------------------------------------------------------------------------------------------------


def test_ranking_by_hand_and_nothing_but_likelihood_where_the_order_is_right() -> None:
    engine = random_policy(14, length=3)
    responses = sorted(engine.responses(PROMPT)[:6], key=lambda r: float(engine.logp(PROMPT, r).detach()) / len(r.ids))
    low, middle, high = responses[0], responses[2], responses[5]
    s = {id(r): engine.logp(PROMPT, r) / len(r.ids) for r in responses}
    objective = objective_of("rrhf_code", rank=10.0)
    ordered = Group(PROMPT, (low, high, middle), (Score(0.0, "wrong"), Score(1.0), Score(0.5)))
    torch.testing.assert_close(gradient(engine, [ordered], objective), slope(engine, -s[id(high)]))
    turned = Group(PROMPT, (low, high, middle), (Score(1.0), Score(0.0, "wrong"), Score(0.5)))
    gaps = (s[id(high)] - s[id(low)]) + (s[id(middle)] - s[id(low)]) + (s[id(high)] - s[id(middle)])
    torch.testing.assert_close(gradient(engine, [turned], objective), slope(engine, 10 * gaps - s[id(low)]))
    tied = Group(PROMPT, (low, high), (Score(1.0), Score(1.0)))
    torch.testing.assert_close(gradient(engine, [tied], objective), slope(engine, -s[id(low)]))


# -- trice -----------------------------------------------------------------------------------------------------------


def chosen(engine: TabularEngine, prompt: Prompt, right: Callable[[Response], bool]) -> list[tuple[Response, float]]:
    return [(r, float(engine.logp(prompt, r).detach().exp())) for r in engine.responses(prompt) if right(r)]


@pytest.mark.parametrize("control", [True, False])
def test_the_memorys_gradient_is_that_of_the_log_marginal(control: bool) -> None:
    """Expectation over memories from the posterior and proposals from pi, of both prompts, exactly."""
    engine = random_policy(15, prompts=2)
    prompts = [dataclasses.replace(p, ids=(int(p.text or 0),)) for p in PROMPTS[:2]]
    right = lambda r: bool(reward(r) > 0)  # noqa: E731
    every = [chosen(engine, p, lambda r: True) for p in prompts]
    posterior = [chosen(engine, p, right) for p in prompts]
    masses = [sum(q for _, q in mine) for mine in posterior]
    part, total = credit.acceptance(control), torch.zeros_like(engine.gradient())
    objective = objective_of("trice")
    outcomes = []
    for p, mine, kept, mass in zip(prompts, every, posterior, masses, strict=True):
        cases = []
        for (new, q), (old, m) in itertools.product(mine, kept):
            memory = {} if right(new) else {"m": dataclasses.replace(old, origin="memory")}
            scores = (Score(1.0),) if right(new) else (Score(0.0, "wrong"), Score(1.0))
            cases.append((Group(p, (new, *memory.values()), scores), q * m / mass))
        outcomes.append(cases)
    for (a, p_a), (b, p_b) in itertools.product(*outcomes):
        groups, _ = part(None, [a, b], None)  # type: ignore[arg-type] - it uses no context
        total += p_a * p_b * gradient(engine, groups, objective)
    marginals = [engine.expected(p, lambda r: float(right(r))).log() for p in prompts]
    torch.testing.assert_close(-total, slope(engine, torch.stack(marginals).mean()), rtol=1e-9, atol=1e-11)


def test_proposals_alone_are_reinforce_with_the_other_prompts_mean_as_baseline() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0]
    groups = [toy.group([r]) for r in rewards]
    after, _ = credit.acceptance()(None, groups, None)  # type: ignore[arg-type]
    want, _ = credit.leave_one_out("batch")(None, groups, None)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        [a.notes["advantage"].values[0][0] for a in after], [a.notes["advantage"].values[0][0] for a in want]
    )


def test_the_memory_is_the_last_right_response_and_plain_data(tmp_path: Any) -> None:
    loop = toy.loop(tmp_path / "run", "trice", toy.Budget(flops=4_000.0))
    loop.run()
    _, memory = json.loads(json.dumps(loop.at.streams[0]["source"]))
    assert memory and all(m["text"].startswith(toy.wanted(PROMPTS[int(k[1:])])) for k, m in memory.items())
    kept = {"p0": {"ids": [1, 2, 0], "text": "1 2", "value": 1.0, "answer": "1"}}
    task = dataclasses.replace(toy.TASK, splits={"train": PROMPTS[:1]})
    seen = set()
    for seed in range(40):
        ctx = dataclasses.replace(loop_context(), key=Key((seed,)))
        (g,), (_, now) = sources.remembered(task, signals.verified(task), 1)(ctx, [], [0, kept])
        seen.add(g.scores[0].status)
        if g.scores[0].status == "right":
            assert len(g.responses) == 1 and now["p0"]["ids"] == g.responses[0].ids.tolist()
        else:
            assert [r.origin for r in g.responses] == ["policy", "memory"] and now == kept
            assert describe([g])["reward"] == 0.0  # of what was sampled; the memory was counted when it was
    assert seen == {"right", "wrong"}


def loop_context() -> Context:
    from equipoise.budget import Budget, Ledger

    engine = toy.engine()
    return Context(engine, Key((0,)), Ledger(Budget(flops=1e9)), lambda p, n, t, s: engine.bound(p, n, t, s, 0, 1))


# -- kl_as_bayes -----------------------------------------------------------------------------------------------------


def test_posterior_weights_by_hand_and_exactly_zero_where_nothing_is_to_learn() -> None:
    engine = anchored(16)
    g = several(engine)
    assert {s.value for s in g.scores} != {g.scores[0].value}
    for centred in (True, False):
        (got,), _ = credit.posterior_weights(0.5, centred=centred)(context(engine), [g], None)
        w = np.exp(np.array([s.value for s in g.scores]) / 0.5)
        np.testing.assert_allclose(
            got.notes["advantage"].values[0], len(w) * w / w.sum() - centred, rtol=1e-5, atol=1e-6
        )
    moved(engine, 7)
    g = several(engine)
    (got,), _ = credit.posterior_weights(0.5)(context(engine), [g], None)
    w = np.exp(regularised(engine, g, 0.5) / 0.5)  # pi itself sampled
    np.testing.assert_allclose(got.notes["advantage"].values[0], len(w) * w / w.sum() - 1, rtol=1e-4, atol=1e-5)


# -- bad inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("a_star_po", {"b1": 0.0}, "b.*expected above 0"),
        ("a_star_po", {"b2": -1.0}, "expected at least 0"),
        ("copg", {"samples": 1}, "samples=1.*in pairs.*at least 2"),
        ("shiq", {"beta": 0.0}, "nothing is learned; expected above 0"),
        ("dqo", {"lam": 1.5}, r"lam=1.5.*\[0, 1\]"),
        ("bcpg_nsa", {"mining": 2.0}, "coefficient=2.*at most 1"),
        ("bcpg_nsa", {"flip": 1.5}, r"flip=1.5.*\[0, 1\]"),
        ("rrhf_code", {"samples": 1}, "samples=1.*ranked.*at least 2"),
        ("rrhf_code", {"rank": -1.0}, "weight=-1.*at least 0"),
        ("kl_as_bayes", {"beta": 0.0}, "beta=0.*above 0"),
        ("kl_as_bayes", {"samples": 1}, "samples=1.*at least 2"),
        ("trice", {"prompts": 0}, "prompts=0: expected at least 1"),
    ],
)
def test_bad_arguments_say_what_was_expected(method: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        toy.recipe(method, **arguments)


def test_credit_for_steps_needs_a_task_that_checks_them() -> None:
    with pytest.raises(ArgumentError, match="needs a task with a check of steps; 'toy' has"):
        toy.recipe("bcpg_nsa", dataclasses.replace(toy.TASK, steps=None))
    with pytest.raises(ArgumentError, match=r"no labels of steps; put signals.steps"):
        spare: Part = credit.spare_right_steps(0.0)
        spare(None, [toy.group([1.0, 0.0])], None)  # type: ignore[arg-type]
