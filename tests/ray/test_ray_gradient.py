"""The gradient of a step is the local engine's on any number of ranks (invariant 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from small_models import contrast, gradients, make_engine, policy_gradient, rollouts

from equipoise.engine.batch import count
from equipoise.engine.ray.engine import added, merged
from equipoise.engine.ray.rank import Rank
from equipoise.types import Loss, Note, Objective

NEEDS = frozenset({"entropy", "logsumexp", "head:value"})
OBJECTIVES = {
    "response": lambda: policy_gradient("response"),
    "group": lambda: policy_gradient("group"),
    "batch": lambda: contrast(NEEDS),
    "pairs": lambda: compared(),
}


def compared() -> Objective:
    """Scope "group", with outputs besides the log-probs: a group's responses are in one square, groups add up."""

    def loss(out: Any, batch: Any) -> Loss:
        mean = batch.per_response(out.logp + out.reduced["entropy"]) / batch.lengths
        value = batch.per_response(out.heads["value"][:, 0] + out.heads["value"][:, 0] ** 2)
        return Loss(batch.per_group(mean) ** 2 + batch.per_group(value))

    return Objective(loss, "square", "-", frozenset({"entropy", "head:value"}), "group")


def engine(kind: str = "llama", tokens: int = 10_000, **settings: Any) -> Any:
    return make_engine(kind, dtype="float64", heads=["value"], rows_tokens=tokens, **settings)


def sharded(ranks: int, groups: Any, objective: Any, **settings: Any) -> Any:
    """Gradient, metrics and notes of so many ranks, put together."""

    def work(rank: int) -> Any:
        part = Rank(engine(**settings), rank, ranks)
        metrics, notes = part.backward(groups, objective, count(groups))
        grads = {name: p.grad.full_tensor() for name, p in part._sharded.items() if p.grad is not None}
        return {name: g.numpy() for name, g in grads.items()}, metrics, notes, part.spent()

    found = on_ranks(ranks, work)
    flat = torch.cat([torch.from_numpy(g).flatten() for g in found[0][0].values()])
    return flat, added([f[1] for f in found]), merged([f[2] for f in found]), [f[3] for f in found]


def distance(a: Any, b: Any) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("tokens", [60, 10_000], ids=["small", "large"])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_gradient_is_the_local_engines(ranks: int, name: str, tokens: int) -> None:
    """Five groups: neither 2 nor 3 divides them. Groups above 60 tokens take two passes where they stay together."""
    local = engine(tokens=tokens)
    groups = rollouts(local, prompts=5, samples=4, tokens=12)
    whole, metrics, notes = gradients(local, groups, OBJECTIVES[name]())
    parts, other, moved, _ = sharded(ranks, groups, OBJECTIVES[name](), tokens=tokens)
    assert distance(parts, whole) < 1e-6  # another split may choose another packing
    for metric in metrics.keys() - {"two_pass_gap", "mismatch_max", "mismatch"}:
        assert other[metric] == pytest.approx(metrics[metric], rel=1e-6)
    for mine, theirs in zip(moved, notes, strict=True):
        for a, b in zip(mine["logp"], theirs["logp"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
