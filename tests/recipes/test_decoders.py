"""Decoders that adjust logits: honoured by both engines, recorded by name, and what they do."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import toy
from equipoise import tasks
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.local import load
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError, RecordError
from equipoise.evaluate import evaluate
from equipoise.job.finished import opened
from equipoise.job.job import run_job
from equipoise.keys import Key
from equipoise.parts import decoders, objectives, sources
from equipoise.protocols import Context
from equipoise.types import Adjust, Decoder, Group, Prompt, Response, Score

DOUBLED = Adjust("doubled", lambda logits, heads: 2 * logits)
PROMPT = dataclasses.replace(toy.PROMPTS[0], ids=(0,))


def test_the_tabular_engine_draws_from_and_records_the_adjusted_distribution() -> None:
    engine = toy.random_policy(0)
    (group,) = engine.sample([PROMPT], 50, Decoder(2, adjust=DOUBLED), [Key((0,))])
    (halved,) = engine.sample([PROMPT], 50, Decoder(2, temperature=0.5), [Key((0,))])
    for a, b in zip(group.responses, halved.responses, strict=True):
        assert a.ids.tolist() == b.ids.tolist() and a.origin == "policy, doubled"
        assert a.logprobs == pytest.approx(b.logprobs)
    other = engine.decoded(DOUBLED)
    (plain,) = other.sample([PROMPT], 50, Decoder(2), [Key((0,))])
    assert [r.ids.tolist() for r in plain.responses] == [r.ids.tolist() for r in group.responses]


def test_the_local_engine_draws_from_and_records_the_adjusted_distribution() -> None:
    engine = load("tiny", device="cpu", dtype="float32", heads=["success[V]"])
    prompt = engine.encode(Prompt("p", messages=({"role": "user", "content": "What is 12+7?"},)))
    (a,) = engine.sample([prompt], 6, Decoder(8, adjust=DOUBLED), [Key((0,))])
    (b,) = engine.sample([prompt], 6, Decoder(8, temperature=0.5), [Key((0,))])
    for x, y in zip(a.responses, b.responses, strict=True):
        assert x.ids.tolist() == y.ids.tolist() and x.logprobs == pytest.approx(y.logprobs, abs=1e-5)
        assert x.origin == "policy, doubled"
    bias = engine.trained["head:success[V].bias"].data
    bias[:], bias[5] = -200.0, 50.0  # the head speaks for token 5 alone
    forced = decoders.guided("success[V]", 0.01)
    (c,) = engine.sample([prompt], 2, Decoder(3, adjust=forced), [Key((0,))])
    assert all(r.ids.tolist() == [5, 5, 5] for r in c.responses)


def descended(logits: torch.Tensor, steps: int, delta: float, kl: float, lr: float) -> torch.Tensor:
    """The same by autograd and torch's own Adam, a row at a time."""
    rows = []
    for row in logits:
        z = row.clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            p, p0 = z.log_softmax(-1), row.log_softmax(-1)
            entropy = -(p.exp() * p).sum()
            if float(entropy.detach()) < delta:
                break
            adam.zero_grad()
            (entropy + kl * (p0.exp() * (p0 - p)).sum()).backward()
            adam.step()
        rows.append(z.detach())
    return torch.stack(rows)


def test_entropy_descent_is_adam_on_entropy_and_divergence() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.5
    logits[4, 2] += 20  # sure already: left as it is
    got = decoders.descend_entropy(4, 0.3, 0.05, 0.1).run(logits, {})
    torch.testing.assert_close(got, descended(logits, 4, 0.3, 0.05, 0.1), rtol=1e-6, atol=1e-6)
    assert torch.equal(got[4], logits[4])
    assert float((got - logits).abs().max()) < 4 * 0.1 + 0.05
    before, after = (-(x.softmax(-1) * x.log_softmax(-1)).sum(-1) for x in (logits, got))
    assert bool((after[:4] < before[:4]).all())


def test_soft_values_have_their_limits_and_do_not_overflow() -> None:
    p = torch.tensor([1e-6, 0.1, 0.5, 0.9], dtype=torch.float64)
    odds = (p / (1 - p)).log()
    for eta in (0.3, 1.0, 7.0):
        want = (1 - p + p * math.exp(1 / eta)).log()
        torch.testing.assert_close(decoders.soft_value(odds, eta), want)
    torch.testing.assert_close(decoders.soft_value(odds, 1e6) * 1e6, p, rtol=1e-4, atol=1e-8)
    small = decoders.soft_value(odds, 1e-4) * 1e-4
    assert bool(small.isfinite().all()) and float((small - 1).abs().max()) < 0.01


def test_bad_decoders_are_refused() -> None:
    with pytest.raises(ArgumentError, match="expected steps >= 1"):
        decoders.descend_entropy(0)
    with pytest.raises(ArgumentError, match="eta above 0"):
        decoders.guided("success[V]", 0.0)
    with pytest.raises(ArgumentError, match=r"named x\[V\]"):
        decoders.guided("value", 1.0)


def exact_odds(engine: TabularEngine, reward: Callable[[Response], float]) -> torch.Tensor:
    """Log-odds of E[reward | prompt, prefix, token, the policy goes on], as the head's table [1, prefixes, V]."""
    every = [(r, float(engine.logp(PROMPT, r).detach().exp()), reward(r)) for r in engine.responses(PROMPT)]
    table = torch.zeros(1, len(engine.prefixes), engine.vocabulary, dtype=torch.float64)
    for prefix, row in engine.prefixes.items():
        for token in range(engine.vocabulary):
            want = [*prefix, token]
            mine = [(p, z) for r, p, z in every if r.ids.tolist()[: len(want)] == want]
            share = sum(p * z for p, z in mine) / sum(p for p, _ in mine)
            table[0, row, token] = torch.tensor(share, dtype=torch.float64).clamp(1e-15, 1 - 1e-15).logit()
    return table


@pytest.mark.parametrize("eta", [0.2, 1.0, 5.0])
def test_guided_by_the_exact_value_is_the_exponentially_tilted_policy(eta: float) -> None:
    """pi(y) e^(Z(y)/eta) / norm over whole responses, on a tree whose every response is listed."""
    engine = toy.random_policy(5, vocabulary=3, length=3, heads=["success[V]"])
    right = lambda r: float(sum(r.ids.tolist()) % 2)  # noqa: E731
    engine.weights["head:success[V]"].data.copy_(exact_odds(engine, right))
    guided = engine.decoded(decoders.guided("success[V]", eta))
    every = engine.responses(PROMPT)
    tilted = torch.stack([engine.logp(PROMPT, r) + right(r) / eta for r in every]).detach().softmax(0)
    got = torch.stack([guided.logp(PROMPT, r) for r in every]).detach().exp()
    torch.testing.assert_close(got, tilted, rtol=1e-9, atol=1e-12)


def test_guided_by_the_mean_adds_the_chance_itself() -> None:
    odds = torch.tensor([[0.0, math.log(3)]])
    z = decoders.guided("success[V]", 0.5, soft=False).run(torch.zeros(1, 2), {"success[V]": odds})
    assert z.tolist() == [pytest.approx([1.0, 1.5])]  # p / eta


def test_an_evaluation_with_an_adjusted_decoder_tells_the_kl_from_the_policy() -> None:
    """Its expectation on a tree whose every response is listed; truncated responses count like others."""
    engine = toy.random_policy(8, prompts=len(toy.PROMPTS), vocabulary=4, length=2)
    found = evaluate(engine, toy.TASK, "test", 2, 1000, Key((0,)), adjust=DOUBLED)
    other, kl = engine.decoded(DOUBLED), 0.0
    for p in (g.prompt for g in found.groups):
        moved = lambda r, p=p: (other.logp(p, r) - engine.logp(p, r)).detach()  # noqa: E731
        kl += float(sum(other.logp(p, r).detach().exp() * moved(r) for r in engine.responses(p))) / len(found.groups)
    assert found.metrics["parts/kl"].value == pytest.approx(kl, abs=0.03) and kl > 0.1
    assert any(r.stop == "length" for g in found.groups for r in g.responses)
    assert "parts/kl" not in evaluate(engine, toy.TASK, "test", 2, 4, Key((0,))).metrics


def test_a_finished_run_is_evaluated_as_it_was_tested(tmp_path: Path) -> None:
    """Its head is in no model folder: without it, or with one at 0, the same samples would not be drawn."""
    asked = {"method": "q_sharp", "task": "addition", "model": "tiny", "knobs": {"difficulty": 1}, "threads": 1}
    asked |= {"arguments": {"lr": 1.0, "rounds": 1, "fit": 1}, "budget": {"flops": 6e9}, "preflight": False}
    asked |= {"eval": {"points": 0}, "test": {"items": 4, "samples": 2, "start": False}}
    run_job(asked, tmp_path / "run", lambda event: None)
    task = tasks.load("addition", difficulty=1)
    engine, adjust = opened(tmp_path / "run", task, device="cpu")
    again = evaluate(engine, task, "test", 4, 2, Key((0, "test")), (1, 2), adjust=adjust).json()
    tested = json.loads((tmp_path / "run" / "final.json").read_text())["test"]
    assert again == tested and abs(again["metrics"]["parts/kl"]["value"]) > 1e-3
    (tmp_path / "run" / "final.json").unlink()
    with pytest.raises(RecordError, match="not finished"):
        opened(tmp_path / "run", task)


def test_fitting_outcomes_moves_the_head_alone_towards_the_rate_of_success() -> None:
    engine = toy.random_policy(6, heads=["success[V]"])
    responses = (toy.response([1, 0]), toy.response([1, 0]), toy.response([2, 0]), toy.response([1, 2]))
    group = Group(PROMPT, responses, tuple(Score(z) for z in (1.0, 0.0, 0.0, 1.0)))
    before = engine.weights["logits"].detach().clone()
    for _ in range(400):
        engine.backward([group], objectives.outcome_error("success[V]"), count([group]))
        engine.step(4.0)
    rates = engine.weights["head:success[V]"].detach().sigmoid()[0]
    assert float(rates[engine.prefixes[()], 1]) == pytest.approx(2 / 3, abs=1e-3)
    assert float(rates[engine.prefixes[(1,)], 0]) == pytest.approx(1 / 2, abs=1e-3)
    assert torch.equal(engine.weights["logits"].detach(), before)


def test_a_head_is_trained_and_the_model_under_it_is_not() -> None:
    engine = load("tiny", device="cpu", dtype="float32", heads=["success[V]"])
    prompt = engine.encode(Prompt("p", messages=({"role": "user", "content": "What is 12+7?"},)))
    (group,) = engine.sample([prompt], 4, Decoder(6), [Key((0,))])
    group = dataclasses.replace(group, scores=tuple(Score(float(i % 2)) for i in range(4)))
    engine.trained["head:success[V].weight"].data[:] = 0.01  # else no gradient would reach the model anyway
    before = {k: v.detach().clone() for k, v in engine.trained.items()}
    metrics, _ = engine.backward([group], objectives.outcome_error("success[V]"), count([group]))
    assert metrics["value_loss"][0] / metrics["value_loss"][1] == pytest.approx(math.log(2), rel=0.2)
    engine.step(1e-3)
    moved = {k for k, v in engine.trained.items() if not torch.equal(v, before[k])}
    assert moved == {"head:success[V].weight", "head:success[V].bias"}


def test_rolled_in_tokens_are_another_decoders_and_not_trained() -> None:
    engine = toy.random_policy(7, prompts=6, vocabulary=4, length=3, heads=["success[V]"])
    part = sources.begun_by(toy.TASK, 6, 4, decoders.guided("success[V]", 1.0))
    ctx = Context(engine, Key((0,)), Ledger(Budget(flops=1e9)), lambda *a: engine.bound(*a, 0, 0))
    groups, state = part(ctx, [], None)
    assert state == 6 and len(groups) == 6
    lengths = {int((~r.trained).sum()) for g in groups for r in g.responses if r.trained.any()}
    assert len(lengths) > 1  # as many prefixes as were drawn
    for r in (r for g in groups for r in g.responses):
        assert r.text == engine.decode(r.ids.tolist()) and len(r.ids) <= 3
        assert not r.trained.any() or r.trained[int((~r.trained).sum()) :].all()
    spent = ctx.reserved[0][2]
    assert engine.spent().generated_tokens <= spent.generated_tokens and engine.spent().flops <= spent.flops


def test_q_sharp_refuses_what_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="rounds=0"):
        toy.recipe("q_sharp", rounds=0)
