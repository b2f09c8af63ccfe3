"""The simulated pipeline against what can be said without simulating: sums, maxima, cycle means, order of events."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.plan.pipeline import LEARNER, Durations, Machine, Trace, sampler, simulate
from equipoise.plan.report import shares, simulated, window

yes = st.booleans()
seconds = st.integers(1, 5)  # whole, so that the cycle means differ enough to win within a few steps


def constant(
    steps: int, generate: float, learn: float, send: float = 0.0, swap: float = 0.0, score: float = 0.0, **more: object
) -> Durations:
    """The same durations in every step, of one sampler unless told."""
    samplers = int(str(more.get("samplers", 1)))
    return Durations(
        np.full((steps, samplers), generate),
        np.full(steps, learn),
        np.full(steps, score),
        np.full(steps, float(str(more.get("record", 0.0)))),
        send,
        swap,
        bool(more.get("held", True)),
        bool(more.get("driver", True)),
    )


def ragged(seed: int, steps: int, samplers: int, held: bool = True, driver: bool = True) -> Durations:
    rng = np.random.default_rng(seed)
    generate, learn = rng.lognormal(0, 0.7, (steps, samplers)), rng.lognormal(0.5, 0.4, steps)
    return Durations(generate, learn, *rng.uniform(0, 0.2, (2, steps)), 0.3, 0.1, held, driver)


def step_s(d: Durations, ahead: int, steps: int, machine: Machine | None = None) -> float:
    return window(simulate(d, ahead, machine), ahead, steps).step_s


def test_ahead_0_takes_the_sum() -> None:
    d = constant(simulated(0, 4), generate=5, learn=3, send=0.5, swap=0.25, score=0.125)
    assert step_s(d, 0, 4) == 5 + 3 + 0.5 + 0.25 + 0.125
    ends = simulate(d, 0).learned
    assert ends[0] == 5 + 0.125 + 3  # nothing is published before the first step
    assert np.all(np.diff(ends) == 8.875)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_ahead_takes_the_larger_side(ahead: int) -> None:
    for generate, learn in ((5.0, 3.0), (3.0, 5.0), (4.0, 4.0)):
        free = constant(simulated(ahead, 12), generate, learn, send=0.5, swap=0.25, driver=False)
        assert step_s(free, ahead, 12) == max(generate + 0.25, learn + 0.5)
    driven = constant(simulated(1, 12), 5.0, 3.0, send=0.5, swap=0.25, score=0.125)
    assert step_s(driven, 1, 12) == 0.125 + 0.5 + max(0.25 + 5.0, 3.0)  # the driver scores and sends before either side


@settings(max_examples=60, deadline=None)
@given(
    **dict.fromkeys(("generate", "learn", "send", "swap", "score", "record"), seconds),
    ahead=st.integers(0, 4),
    held=yes,
    driver=yes,
)
def test_constant_durations_take_the_largest_cycle_mean(
    generate: int, learn: int, send: int, swap: int, score: int, record: int, ahead: int, held: bool, driver: bool
) -> None:
    sampling, lap = generate + swap, score + learn + record
    if ahead == 0:
        cycles = [sampling + lap + send]
    elif driver:
        cycles = [sampling, lap + send * held, send, (score + send + sampling) / ahead]
    else:
        cycles = [sampling, lap + send * held, send, (sampling + lap + send) / (ahead + 1)]
    d = constant(160, generate, learn, send, swap, score, record=record, held=held, driver=driver)
    ends = simulate(d, ahead).learned
    period = 12 * (ahead + 1)  # events repeat every ahead or ahead + 1 steps, once the first ones are forgotten
    assert (ends[-1] - ends[-1 - period]) / period == pytest.approx(max(cycles), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ahead=st.integers(0, 3), samplers=st.integers(1, 4), held=yes, driver=yes)
def test_every_step_is_sampled_by_the_version_it_should_be(
    seed: int, ahead: int, samplers: int, held: bool, driver: bool
) -> None:
    trace = simulate(ragged(seed, 9, samplers, held, driver), ahead)
    published = {s.version: s.end for s in trace.spans if s.state == "publish"}
    for s in trace.spans:
        if s.state == "generate":
            assert s.version == max(0, s.step - ahead)
            assert s.version == 0 or s.start >= published[s.version]
        if s.state == "learn":
            assert s.start >= trace.drawn[s.step].max()
            assert s.version == s.step  # it has learned all steps before, so what it learns is at most `ahead` old
    for who in [LEARNER, *(sampler(i) for i in range(samplers))]:
        own = trace.of(who)
        assert all(a.end <= b.start for a, b in pairwise(own)), "two things at once"
        assert [s.step for s in own if s.state in ("generate", "learn")] == list(range(9))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ahead=st.integers(0, 3), samplers=st.integers(1, 4), held=yes, driver=yes)
def test_work_is_conserved_and_shares_are_whole(seed: int, ahead: int, samplers: int, held: bool, driver: bool) -> None:
    d = ragged(seed, simulated(ahead, 5), samplers, held, driver)
    trace = simulate(d, ahead)
    for state in ("generate", "learn", "score", "record"):
        spent = sum(s.end - s.start for s in trace.spans if s.state == state)
        assert spent == pytest.approx(getattr(d, state).sum())
    learner, every = shares(trace, window(trace, ahead, 5))
    for mine in (learner, *every):
        assert sum(mine.values()) == pytest.approx(1.0)
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in mine.values())


def test_simulation_repeats() -> None:
    d = ragged(3, 8, 3)
    assert simulate(d, 1).spans == simulate(d, 1).spans


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ahead=st.integers(0, 3),
    which=st.sampled_from(["generate", "learn", "send_s", "swap_s"]),
)
def test_nothing_gets_later_when_a_part_gets_faster(seed: int, ahead: int, which: str) -> None:
    d = ragged(seed, 9, 3, held=bool(seed % 2), driver=bool(seed % 3))
    faster = Durations(**{**d.__dict__, which: getattr(d, which) / 2})
    assert np.all(simulate(faster, ahead).learned <= simulate(d, ahead).learned + 1e-9)


def test_nothing_gets_later_further_ahead() -> None:
    d = ragged(5, 12, 2)
    ends = [simulate(d, k).learned for k in range(4)]
    assert all(np.all(b <= a + 1e-9) for a, b in pairwise(ends))
    assert ends[1][-1] < ends[0][-1]


def test_a_sampler_that_ends_early_waits_in_the_tail_then_for_weights() -> None:
    steps = simulated(0, 2)
    d = Durations(np.tile([2.0, 6.0], (steps, 1)), np.full(steps, 3.0), *np.zeros((2, steps)), 1.0, 0.0, True)
    trace = simulate(d, 0)
    learner, (first, second) = shares(trace, window(trace, 0, 2))  # ten seconds a step
    assert learner == pytest.approx({"learn": 0.3, "score": 0.0, "record": 0.0, "publish": 0.1, "groups": 0.6})
    assert first == pytest.approx({"generate": 0.2, "tail": 0.4, "weights": 0.4, "swap": 0.0})
    assert second == pytest.approx({"generate": 0.6, "tail": 0.0, "weights": 0.4, "swap": 0.0})


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize(("driver", "expected"), [(True, 6.0), (False, 4.0)])
def test_free_samplers_go_on_while_others_still_generate(ahead: int, driver: bool, expected: float) -> None:
    steps = simulated(ahead, 4)
    generate = np.array([[2.0, 6.0] if s % 2 else [6.0, 2.0] for s in range(steps)])
    d = Durations(generate, np.full(steps, 1.0), *np.zeros((2, steps)), 0.0, 0.0, True, driver)
    assert step_s(d, ahead, 4) == expected


# -- processes that share cores --------------------------------------------------------------------------------------


def ends(machine: Machine, generate: float, learn: float) -> Trace:
    return simulate(constant(simulated(1, 6), generate, learn), 1, machine)


def test_two_processes_on_one_core_take_the_sum() -> None:
    assert window(ends(Machine(1), 5, 3), 1, 6).step_s == pytest.approx(8)


def test_cores_enough_for_all_slow_nobody() -> None:
    assert window(ends(Machine(3, 1, 2), 5, 3), 1, 6).step_s == pytest.approx(5)


def test_three_threads_on_two_cores_run_at_two_thirds() -> None:
    # Both sides begin together and would take 3 s. At two thirds of full speed each takes 4.5 s.
    assert window(ends(Machine(2, 1, 2), 3, 3), 1, 6).step_s == pytest.approx(4.5)
    # Learning ends at 4.5 s with 4 s of generation left, which then has a core of its own: until 6.5 s.
    assert window(ends(Machine(2, 1, 2), 5, 3), 1, 6).step_s == pytest.approx(6.5)
