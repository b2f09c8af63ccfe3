"""The inverse of the cumulative distribution: exact, right-continuous, never a token of probability 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from equipoise.engine.local.draw import draw, invert, truncate
from equipoise.keys import Key, uniforms

LAST = 1 - 2.0**-53
EDGES = [0.0, 2.0**-53, 0.5, LAST]


def one(weights: list[float], u: float) -> int:
    ids, _ = invert(torch.tensor([weights]), torch.tensor([u], dtype=torch.float64))
    return int(ids[0])


def test_known_distribution() -> None:
    weights = [1.0, 0.0, 2.0, 1.0]  # F = 1/4, 1/4, 3/4, 1
    assert [one(weights, u) for u in (0.0, 0.24, 0.25, 0.74, 0.75, LAST)] == [0, 0, 2, 2, 3, 3]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 700),
    st.integers(0, 2**32 - 1),
    st.sampled_from([*EDGES, None]),
    st.floats(0, LAST, exclude_max=False),
    st.floats(0.0, 0.95),
    st.floats(0.1, 40),
)
def test_inverts_the_cumulative_sum(
    size: int, seed: int, edge: float | None, u: float, zeros: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.exp(np.minimum(spread * rng.normal(size=size), 0)).astype(np.float32)
    weights[rng.random(size) < zeros] = 0
    weights[rng.integers(size)] = 1.0
    u = edge if edge is not None else u
    k = one(weights.tolist(), u)
    cumulative = np.cumsum(weights.astype(np.float64))
    assert weights[k] > 0
    slack = 1e-12 * cumulative[-1]
    assert cumulative[k] > u * cumulative[-1] - slack
    assert (cumulative[k - 1] if k else 0.0) <= u * cumulative[-1] + slack


@pytest.mark.parametrize("size", [2, 17, 98, 512, 997, 49152])
def test_edges_hit_the_first_and_the_last_possible_token(size: int) -> None:
    weights = torch.zeros(1, size)
    weights[0, size // 3], weights[0, size // 2] = 0.3, 0.7
    first, _ = invert(weights, torch.tensor([0.0], dtype=torch.float64))
    last, _ = invert(weights, torch.tensor([LAST], dtype=torch.float64))
    assert (int(first[0]), int(last[0])) == (size // 3, size // 2)


def test_draws_follow_the_softmax() -> None:
    """Chi-square over 20000 draws with uniforms of real keys."""
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)) * 2
    n = 20_000
    words = np.array([(Key((0,)) / i).word for i in range(n)], dtype=np.uint64)
    u = torch.from_numpy(uniforms(words, np.zeros(n, dtype=np.int64)))
    ids, logp = draw(logits.expand(n, -1), u, temperature=0.7)
    p = torch.softmax(logits[0].double() / 0.7, -1).numpy()
    seen = np.bincount(ids.numpy(), minlength=40)
    rare = p * n < 5
    observed, expected = [*seen[~rare], seen[rare].sum()], [*(n * p[~rare]), n * p[rare].sum()]
    assert chisquare(observed, expected).pvalue > 1e-3
    torch.testing.assert_close(logp.double(), torch.from_numpy(np.log(p))[ids], atol=1e-5, rtol=0)


def test_greedy_is_a_point_mass() -> None:
    ids, logp = draw(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.99], dtype=torch.float64), 0.0)
    assert (int(ids[0]), float(logp[0])) == (1, 0.0)


def test_truncation_keeps_the_nucleus_and_renormalises() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert (truncate(logits, 1.0, 2) > -math.inf).tolist() == [[False, True, False, True]]
    assert (truncate(logits, 0.7, 0) > -math.inf).tolist() == [[False, True, False, True]]
    assert (truncate(logits, 0.71, 0) > -math.inf).tolist() == [[False, True, True, True]]
    ids, logp = draw(logits, torch.tensor([0.99], dtype=torch.float64), 1.0, top_k=2)
    assert int(ids[0]) == 3
    assert float(logp[0]) == pytest.approx(math.log(0.3 / 0.7), abs=1e-6)
