"""Decoders that adjust logits: honoured by both engines, recorded by name, and what they do."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import toy
from equipoise.engine.local import load
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import decoders
from equipoise.types import Adjust, Decoder, Prompt

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
    engine.trained["head:success[V].bias"].data[5] = 50.0  # the head speaks for token 5
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
            if float(entropy) < delta:
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
