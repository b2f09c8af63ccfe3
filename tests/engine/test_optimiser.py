"""The optimiser's settings: refused when wrong, and followed by both engines."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_models import make_engine, policy_gradient, rollouts

import toy
from equipoise.engine.batch import count
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError

WRONG: list[tuple[dict[str, float], str]] = [
    ({"clip": 0.0}, r"--optimiser\.clip is 0; expected a number above 0, or inf"),
    ({"clip": math.nan}, r"--optimiser\.clip is nan"),
    ({"beta1": 1.0}, r"--optimiser\.beta1 is 1; expected at least 0 and below 1"),
    ({"beta2": -0.1}, r"--optimiser\.beta2 is -0\.1"),
    ({"eps": 0.0}, r"--optimiser\.eps is 0; expected a number above 0"),
    ({"weight_decay": -1.0}, r"--optimiser\.weight-decay is -1; expected a number of at least 0"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG)
def test_wrong_settings_are_named(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Optimiser(**settings)


def stepped(lr: float = 0.1, scale: float = 1.0, **settings: float) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Parameters of the local engine before and after a step; the gradient is ``scale`` times the objective's."""
    engine: Any = make_engine(optimiser=Optimiser(**settings))
    before = {name: p.detach().clone() for name, p in engine.trained.items()}
    groups = rollouts(engine)
    engine.backward(groups, policy_gradient(), count(groups))
    for p in engine.trained.values():
        p.grad *= scale
    engine.step(lr)
    return {name: (before[name], p.detach()) for name, p in engine.trained.items()}


def test_decay_pulls_matrices_and_leaves_norms_alone() -> None:
    """AdamW: p <- (1 - lr decay) p - lr Adam, so that two runs differ by exactly lr decay p."""
    plain, decayed = stepped(), stepped(weight_decay=0.5)
    kinds = {before.dim() > 1 for before, _ in plain.values()}
    assert kinds == {True, False}
    for name, (before, after) in plain.items():
        expected = after - 0.1 * 0.5 * before if before.dim() > 1 else after
        torch.testing.assert_close(decayed[name][1], expected, msg=name)


def test_eps_and_betas_reach_the_local_optimiser() -> None:
    """Adam's first step is lr g / (|g| + eps) whatever the betas; with a huge eps it is proportional to g."""
    whole, half = (stepped(lr=1e3, scale=x, eps=1e3, clip=math.inf) for x in (1.0, 0.5))
    for (before, near), (_, far) in zip(whole.values(), half.values(), strict=True):
        torch.testing.assert_close(near - before, 2 * (far - before), atol=1e-5, rtol=1e-2)
    assert max(float((after - before).abs().max()) for before, after in whole.values()) > 1e-3
    engine: Any = make_engine(optimiser=Optimiser(beta1=0.5, beta2=0.25))
    assert {g["betas"] for g in engine._optimiser.param_groups} == {(0.5, 0.25)}


def test_the_enumerable_engine_clips_and_decays() -> None:
    """With SGD a step is -lr g, so a clip at c makes its norm lr c."""
    for clip in (math.inf, 0.01):
        engine = toy.engine(settings=Optimiser(clip=clip))
        group = toy.group([1.0, 0.0])
        engine.backward([group], toy.recipe("sft").stages[0].streams[0].objective, count([group]))
        norm = float(engine.gradient().norm())
        assert norm > 0.01
        assert engine.step(2.0)["grad_norm"] == pytest.approx(norm)  # as it was before the clip
        assert float(engine.weights["logits"].detach().norm()) == pytest.approx(2.0 * min(norm, clip), rel=1e-4)
    ones = torch.ones_like(engine.weights["logits"]).detach()
    for kind in ("sgd", "adam"):
        engine = toy.engine(optimiser=kind, init=ones, settings=Optimiser(weight_decay=0.25))
        engine.weights["logits"].grad = torch.zeros_like(ones)
        engine.step(0.5)
        torch.testing.assert_close(engine.weights["logits"].detach(), ones * (1 - 0.5 * 0.25))
