"""The pieces of a plan: lengths, continuous batching, learning, publication, what fits into memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError, UnknownName
from equipoise.plan.cluster import Cluster
from equipoise.plan.decode import Speed, phases, seconds
from equipoise.plan.hardware import SHAPES
from equipoise.plan.pipeline import simulate
from equipoise.plan.report import durations, plan, simulated
from equipoise.plan.roofline import Roofline, largest_load
from equipoise.plan.split import best, search
from equipoise.plan.work import Draw, draw

SMALL = Cluster(prompts=12, samples=4, response_tokens=200, response_max=600, steps=3)


def share(lengths: list[int], prompt: int) -> Draw:
    n = len(lengths)
    return Draw(np.array(lengths), np.full(n, prompt), np.arange(n), np.ones(n, dtype=bool))


# -- responses -------------------------------------------------------------------------------------------------------


def test_lengths_have_the_mean_and_the_limit_asked_for() -> None:
    c = Cluster(prompts=4000, samples=8, response_tokens=500, spread=0.6, response_max=10**6)
    lengths = draw(c, 0).lengths
    assert lengths.mean() == pytest.approx(500.5, rel=0.02)
    assert np.log(lengths).std() == pytest.approx(0.6, rel=0.02)
    assert draw(replace(c, response_max=900), 0).lengths.max() == 900
    assert set(draw(replace(c, spread=0.0), 0).lengths.tolist()) == {500}


def test_lengths_are_a_function_of_seed_and_step_alone() -> None:
    one, other = draw(SMALL, 3).lengths, draw(replace(SMALL, learners=8, samplers=2, ahead=3), 3).lengths
    assert np.array_equal(one, other)
    assert not np.array_equal(one, draw(SMALL, 4).lengths)
    assert not np.array_equal(one, draw(replace(SMALL, seed=1), 3).lengths)


@given(prompts=st.integers(1, 20), samplers=st.integers(1, 9))
def test_samplers_share_whole_groups_in_order(prompts: int, samplers: int) -> None:
    whole = draw(replace(SMALL, prompts=prompts), 0)
    shares = whole.shares(samplers)
    assert np.array_equal(np.concatenate([s.lengths for s in shares]), whole.lengths)
    groups = [set(s.group.tolist()) for s in shares]
    assert sum(len(g) for g in groups) == prompts
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


# -- continuous batching ---------------------------------------------------------------------------------------------


def slowly(lengths: list[int], prompt: int, room: float, rows: int, speed: Speed) -> tuple[float, int]:
    """Token step by token step; seconds and tokens."""
    waiting, flying, total, tokens = list(lengths), [], 0.0, 0
    while waiting or flying:
        while waiting:
            held = sum(prompt + n for _, n in flying)
            if flying and (len(flying) >= rows or held + prompt + waiting[0] > room):
                break
            flying.append((0, waiting.pop(0)))
        reading = speed.weights_s + speed.cached_s * sum(prompt + done for done, _ in flying)
        total += max(reading, speed.row_s * len(flying)) + speed.constant_s
        tokens += len(flying)
        flying = [(done + 1, n) for done, n in flying if done + 1 < n]
    return total, tokens


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    prompt=st.integers(1, 20),
    room=st.floats(1, 400),
    rows=st.integers(1, 12),
    figures=st.tuples(st.floats(0, 2), st.floats(0, 0.1), st.floats(0, 2), st.floats(0, 2)),  # so that either may bound
)
def test_batching_takes_what_counting_token_by_token_takes(
    lengths: list[int], prompt: int, room: float, rows: int, figures: tuple[float, ...]
) -> None:
    speed = Speed(*figures)
    p = phases(share(lengths, prompt), room, rows)
    total, tokens = slowly(lengths, prompt, room, rows, speed)
    assert p.tokens == tokens == sum(lengths)
    assert sum(seconds(p, speed).values()) == pytest.approx(total, rel=1e-9, abs=1e-9)


def test_samplers_divide_the_work() -> None:
    """With equal lengths and full waves a quarter of the prompts takes a quarter of the time."""
    c = replace(SMALL, spread=0.0, rows=8, prompts=16, response_tokens=64)
    whole = draw(c, 0)
    one = [sum(Roofline(c).generate(s).values()) for s in whole.shares(1)]
    four = [sum(Roofline(c).generate(s).values()) for s in whole.shares(4)]
    assert four == pytest.approx([one[0] / 4] * 4, rel=1e-12)


def test_an_empty_share_takes_no_time() -> None:
    assert sum(Roofline(SMALL).generate(draw(SMALL, 0).shares(40)[0]).values()) == 0.0


def test_longer_tails_idle_samplers() -> None:
    even = plan(replace(SMALL, spread=0.0, prompts=8, samplers=4))
    long = plan(replace(SMALL, spread=1.2, prompts=8, samplers=4, response_max=8192))
    assert even.outcome.samplers["tail"] == pytest.approx(0.0, abs=1e-9)
    assert even.ragged == pytest.approx(0.0, abs=1e-9)
    assert long.outcome.samplers["tail"] > 0.05
    assert long.ragged > 0.05


# -- learning, publication -------------------------------------------------------------------------------------------


@given(work=st.lists(st.floats(0.1, 9), min_size=1, max_size=30), ranks=st.integers(1, 8))
def test_the_fullest_rank_is_between_its_bounds(work: list[float], ranks: int) -> None:
    load = largest_load(np.array(work), ranks)
    mean = sum(work) / ranks
    assert max(mean, max(work)) - 1e-9 <= load <= mean + max(work) + 1e-9


def test_the_fullest_rank_by_hand() -> None:
    assert largest_load(np.array([5.0, 4.0, 3.0, 3.0, 3.0]), 2) == 10.0  # 5+3, 4+3, then 3 to the second
    assert largest_load(np.array([5.0, 1.0]), 4) == 5.0


def test_exchange_hides_behind_enough_tokens() -> None:
    """Of weights gathered twice and gradients scattered once, over the network: 6 bytes a parameter against about 6
    FLOPs a parameter and token, so what hides is near peak x mfu / bandwidth tokens a rank, for any size of model."""
    c = Cluster(model="7b", learners=64, samplers=64, prompts=64, samples=1, spread=0.0, prompt_tokens=1)
    hiding = 989e12 * 0.40 / 50e9  # 7,912 tokens
    few, many = (replace(c, response_tokens=x * hiding, response_max=10**5) for x in (0.5, 1.5))
    assert Roofline(few).learn(draw(few, 0)).exchange_s > 0
    assert Roofline(many).learn(draw(many, 0)).exchange_s == 0
    within = replace(few, learners=8)  # NVLink
    assert Roofline(within).learn(draw(within, 0)).exchange_s == 0


def test_a_learner_without_trained_responses_takes_no_time() -> None:
    whole = draw(SMALL, 0)
    none = Draw(whole.lengths, whole.prompts, whole.group, np.zeros(len(whole.lengths), dtype=bool))
    assert Roofline(SMALL).learn(none).seconds == 0.0


def test_publication_takes_latency_and_bytes_by_bandwidth() -> None:
    c = Cluster(learners=4, samplers=4, latency_s=0.125)
    assert Roofline(c).send_s == pytest.approx(0.125 + 2 * SHAPES["7b"].parameters / 50e9)
    assert Roofline(replace(c, senders=1)).send_s == pytest.approx(0.125 + 4 * 2 * SHAPES["7b"].parameters / 50e9)
    assert Roofline(replace(c, trainable=0.01)).send_s == pytest.approx(0.125 + 0.02 * SHAPES["7b"].parameters / 50e9)


def test_an_adapter_needs_no_gradient_of_frozen_weights() -> None:
    full, adapter = Cluster(), Cluster(trainable=1e-9)
    ratio = Roofline(adapter).learn(draw(full, 0)).seconds / Roofline(full).learn(draw(full, 0)).seconds
    assert 0.6 < ratio < 0.75  # 4 of 6 FLOPs, attention and head beside


# -- the whole -------------------------------------------------------------------------------------------------------


def test_ahead_0_is_generation_and_publication_and_learning() -> None:
    c = replace(SMALL, spread=0.0, ahead=0, score_s=0.5)
    rates = Roofline(c)
    whole = draw(c, 0)
    generate = sum(rates.generate(whole.shares(c.samplers)[0]).values())
    expected = generate + 0.5 + rates.learn(whole).seconds + rates.send_s + c.swap_s
    assert plan(c).outcome.seconds_a_step == pytest.approx(expected, rel=1e-12)


def test_staleness_is_ahead() -> None:
    assert [plan(replace(SMALL, ahead=k)).outcome.staleness for k in range(4)] == [0, 1, 2, 3]


@settings(max_examples=15, deadline=None)
@given(
    network=st.floats(1, 20),
    node=st.floats(1, 20),
    memory=st.floats(1, 20),
    ahead=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_more_bandwidth_never_makes_a_step_later(
    network: float, node: float, memory: float, ahead: int, seed: int
) -> None:
    c = replace(SMALL, ahead=ahead, seed=seed, learners=16, response_tokens=40)
    figures = c.figures.__dict__
    more = {
        "network_bytes_s": figures["network_bytes_s"] * network,
        "node_bytes_s": figures["node_bytes_s"] * node,
        "memory_bytes_s": figures["memory_bytes_s"] * memory,
    }
    draws, count = [draw(c, s) for s in range(3)], simulated(ahead, 3)
    slow, fast = (
        simulate(durations(Roofline(each), draws, count), ahead).learned
        for each in (c, replace(c, gpu={**figures, **more}))
    )
    assert np.all(fast <= slow + 1e-9)


def test_bound_is_the_part_that_gains_most() -> None:
    slow_learner = plan(replace(SMALL, learners=2, samplers=8, prompts=128))
    assert slow_learner.outcome.bound == "learner"
    generating = plan(replace(SMALL, learners=64, samplers=1, prompt_tokens=8))
    assert generating.outcome.bound == "generation"
    sending = plan(replace(SMALL, latency_s=60.0))
    assert sending.outcome.bound == "publication"
    turns = plan(replace(SMALL, ahead=0, learners=4, samplers=4, prompts=64))
    assert turns.outcome.gains["one step further ahead"] > 0.2


def test_sizes_are_those_of_the_published_models() -> None:
    assert SHAPES["7b"].parameters == pytest.approx(7.62e9, rel=2e-3)  # 7.61 billion, biases and norms beside
    assert SHAPES["70b"].parameters == pytest.approx(70.55e9, rel=1e-3)
    assert SHAPES["70b"].cache_bytes() == 327_680


# -- memory and arguments --------------------------------------------------------------------------------------------


def test_what_does_not_fit_says_what_would() -> None:
    with pytest.raises(ArgumentError, match=r"need 18 of h100"):
        Roofline(Cluster(model="70b", learners=17, sampler_gpus=4))
    Roofline(Cluster(model="70b", learners=18, sampler_gpus=4))
    with pytest.raises(ArgumentError, match="Raise sampler_gpus"):
        Roofline(Cluster(model="70b", learners=64, sampler_gpus=1))
    with pytest.raises(ArgumentError, match="fits no split of 8 x h100"):
        search(Cluster(model="70b"), 8)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"learners": 0}, "learners is 0; expected a whole number of at least 1"),
        ({"ahead": 1.5}, "ahead is 1.5; expected a whole number"),
        ({"mfu": 1.2}, "mfu is 1.2; expected a share"),
        ({"publish": "never"}, "no way to publish is called 'never'"),
        ({"senders": 9}, "senders is 9 of 4 learners"),
        ({"response_tokens": 9000.0}, "Raise response_max"),
        ({"model": "8b"}, "no model shape is called '8b'"),
        ({"gpu": {"flops": 1e12}}, "needs the figures"),
        ({"gpu": {"speed": 1e12}}, "no figure of a gpu is called 'speed'"),
        ({"latency_s": float("nan")}, "latency_s is nan"),
    ],
)
def test_wrong_numbers_are_told(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((ArgumentError, UnknownName), match=says):
        Cluster(**wrong)


def test_the_best_split_is_the_fastest_of_those_tried() -> None:
    tried = search(SMALL, 8, 1)
    assert [t.cluster.learners for t in tried] == [2, 3, 4, 5, 6, 7]  # one learner cannot hold the optimiser
    assert all(t.cluster.gpus == 8 for t in tried)
    assert best(tried) == max(tried, key=lambda t: t.tokens_a_second).cluster
    [one] = search(SMALL, 8, 1, learners=3)
    assert one == tried[1]
