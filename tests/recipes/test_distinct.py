"""No method is another one under a new name: two updates from the same start end at different weights."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import torch

import toy
from equipoise import recipes
from equipoise.budget import Budget

UPDATES = 2
# Pairs that are the same within two updates, and why.
COINCIDE = {frozenset({"r3", "reft"}): "both begin with the same supervised stage"}


def after_two_updates(method: str, path: Path) -> torch.Tensor:
    """How weights and heads have moved after two optimiser steps, from the same random table (sgd at one rate)."""
    made = toy.recipe(method)
    needs = toy.engine(made.needs)
    start = torch.randn(needs.weights["logits"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    engine = toy.engine(made.needs, init=start)
    loop = toy.loop(path, method, Budget(flops=1e5), engine=engine, stop=lambda: engine.version >= UPDATES)
    loop.run()
    assert engine.version >= UPDATES, f"{method} made {engine.version} updates"
    heads = [w.detach() for name, w in sorted(engine.weights.items()) if name != "logits"]
    return torch.cat([x.flatten() for x in (engine.weights["logits"].detach() - start, *heads)])


def test_no_two_methods_coincide(tmp_path: Path) -> None:
    moved = {m: after_two_updates(m, tmp_path / m) for m in recipes.names()}
    still = [m for m, w in moved.items() if not w.any()]
    assert not still, f"these have not moved: {still}"
    same = {
        frozenset((a, b))
        for a, b in combinations(moved, 2)
        if moved[a].shape == moved[b].shape and torch.allclose(moved[a], moved[b], atol=1e-9)
    }
    assert same == set(COINCIDE), f"the same weights: {sorted(map(sorted, same ^ set(COINCIDE)))}"
