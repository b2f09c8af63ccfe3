"""FLOPs by formula, and a bound that spending never exceeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import contrast, make_engine, policy_gradient

from equipoise.engine import flops
from equipoise.engine.batch import count
from equipoise.keys import Key
from equipoise.types import Decoder, Group, ModelInfo, Note, Prompt

INFO = ModelInfo("m", None, 1000, 1000, 700, 300, 2, 10, 30, 64, (0,), "float32", "cpu")


def test_by_hand() -> None:
    assert flops.causal(3) == 1 + 2 + 3
    assert flops.causal(2, after=5) == 6 + 7
    assert flops.forward(INFO, 4, 10, 3) == 2 * 700 * 4 + 4 * 2 * 10 * 10 + 2 * 300 * 3
    assert flops.training(INFO, 4, 10, 3) == 3 * (2 * 700 * 4 + 4 * 2 * 10 * 10) + 4 * (2 * 300 * 3)
    recompute = replace(INFO, recompute=True)
    assert flops.training(recompute, 4, 10, 0) == 4 * flops.forward(INFO, 4, 10, 0)
    adapters = replace(INFO, trainable=100)
    assert flops.training(adapters, 4, 10, 0) == pytest.approx(2.1 * flops.forward(INFO, 4, 10, 0))


@pytest.fixture(scope="module")
def engines() -> dict[str, Any]:
    return {
        "shared": make_engine(),
        "plain": _unpacked(),
        "cut": make_engine(rows_tokens=40),
        "recomputed": make_engine(checkpointing=True),
        "lora": make_engine(lora_rank=2),
        "experts": make_engine("mixtral"),
    }


def _unpacked() -> Any:
    engine = make_engine()
    engine.network.packs = False
    return engine


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["shared", "plain", "cut", "recomputed", "lora", "experts"]),
    length=st.integers(1, 40),
    n=st.integers(1, 6),
    tokens=st.integers(1, 20),
    seed=st.integers(0, 1000),
    batch=st.booleans(),
)
def test_spending_never_exceeds_the_bound(
    engines: dict[str, Any], name: str, length: int, n: int, tokens: int, seed: int, batch: bool
) -> None:
    engine = engines[name]
    prompt = engine.encode(Prompt("p", text="x" * length))
    before = engine.spent()
    group = engine.sample([prompt], n, Decoder(tokens), [Key((seed,))])[0]
    sampled = engine.spent() - before
    group = Group(group.prompt, group.responses, notes={"advantage": Note("response", (np.ones(n),))})
    engine.outputs([group], ["logp"])
    objective = contrast() if batch else policy_gradient()
    engine.backward([group], objective, count([group]))
    engine.discard()
    spent = engine.spent() - before
    drawn = flops.bound(engine.info, length, n, tokens, 0, 0)
    whole = engine.bound(length, n, tokens, True, 2 if batch else 1, 1)
    for most, actual in ((drawn, sampled), (whole, spent)):
        assert actual.generated_tokens <= most.generated_tokens
        assert actual.trained_tokens <= most.trained_tokens
        assert actual.flops <= most.flops
    assert spent.generated_tokens == spent.trained_tokens == count([group]).tokens
    if all(len(r.ids) == tokens for r in group.responses):  # nothing ended early: the bound is met
        assert sampled.flops == pytest.approx(drawn.flops)
        assert sampled.generated_tokens == drawn.generated_tokens


def test_sampling_is_counted_by_hand() -> None:
    engine = make_engine()
    prompt = engine.encode(Prompt("p", text="x" * 7))
    group = engine.sample([prompt], 1, Decoder(3, temperature=0), [Key((0,))])[0]
    n = len(group.responses[0].ids)
    info = engine.info
    wanted = flops.forward(info, 7, 28, 1) + flops.forward(info, n - 1, sum(range(8, 7 + n)), n - 1)
    assert engine.spent().flops == wanted


def test_shared_prompts_are_counted_once_and_padding_never() -> None:
    shared, plain = make_engine(), _unpacked()
    prompts = [shared.encode(Prompt(str(k), text="x" * (60 - 20 * k))) for k in range(2)]
    groups = shared.sample(prompts, 4, Decoder(2), [Key((0, 0)), Key((0, 1))])
    before = shared.spent()
    shared.outputs(groups, ["logp"])
    plain.outputs(groups, ["logp"])
    info, scored = shared.info, count(groups).tokens
    reads = [[len(r.ids) - 1 for r in g.responses] for g in groups]
    once = sum(flops.forward(info, p, flops.causal(p), 0) for p in (60, 40))
    each = sum(flops.forward(info, r, flops.causal(r, p), 0) for p, rs in zip((60, 40), reads, strict=True) for r in rs)
    head = flops.forward(info, 0, 0, scored)
    assert set(shared.layouts) == {"shared"}
    assert (shared.spent() - before).flops == pytest.approx(once + each + head)
    assert plain.spent().flops == pytest.approx(4 * once + each + head)
