"""The interval's variance by hand, its coverage by simulation, and that verdict, interval and level agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.trial.simulate import PAIRS, START, Effect, Setting, covered, false_alarms
from equipoise.trial.statistics import Arm, arm_mean, difference, interval, p_value, seeds_needed, verdicts


def anova(x: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, items and residual of [seeds, items], written out as loops."""
    n, m = x.shape
    grand = x.mean()
    seed = sum(m * (x[s].mean() - grand) ** 2 for s in range(n)) / (n - 1)
    item = sum(n * (x[:, i].mean() - grand) ** 2 for i in range(m)) / (m - 1)
    left = sum((x[s, i] - x[s].mean() - x[:, i].mean() + grand) ** 2 for s in range(n) for i in range(m))
    return seed, item, left / ((n - 1) * (m - 1))


def test_one_arm_is_the_crossed_analysis_of_variance() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7)) + np.arange(7) + 2 * np.arange(4)[:, None]
    seed, item, residual = anova(x)
    assert difference(Arm("a", x)).variance() == pytest.approx((seed + item - residual) / 28)


def test_against_the_start_model_it_is_the_analysis_of_the_differences() -> None:
    rng = np.random.default_rng(1)
    x, start = rng.normal(size=(3, 9)) + np.arange(3)[:, None], rng.normal(size=(1, 9))
    seed, item, residual = anova(x - start)
    assert difference(Arm("a", x), Arm("start", start, fixed=True)).variance() == pytest.approx(
        max(seed + item - residual, seed, item) / 27
    )


def test_hand_computed_two_by_two() -> None:
    # means of seeds 1.5 and 3.5, of items 2 and 3, no interaction: MS_seed 4, MS_item 1, MS_residual 0
    parts = difference(Arm("a", np.array([[1.0, 2.0], [3.0, 4.0]])))
    assert parts.estimate == pytest.approx(2.5)
    assert parts.variance() == pytest.approx((4 + 1 - 0) / 4)
    # with one degree of freedom each and the seeds' cautious value
    caution = 1 / 0.2059001  # 1 / chi2_{0.35}(1)
    assert parts.freedom() == pytest.approx((caution + 0.25) ** 2 / (caution**2 + 0.25**2), rel=1e-5)


def test_variance_never_falls_below_either_source() -> None:
    x = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])  # all residual
    parts = difference(Arm("a", x), Arm("b", np.zeros((1, 4)), fixed=True))
    assert parts.variance() >= parts.items and parts.variance() >= parts.seeds[0][0]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("pair", PAIRS)
def test_coverage_is_at_least_93_percent(seeds: int, pair: tuple[Effect, Effect]) -> None:
    rng = np.random.default_rng(3)
    settings_ = [Setting(seeds, 60, 4, -1.0), Setting(seeds, 60, 1, 0.0), Setting(seeds, 200, 4, -3.0)]
    rates = [covered(s, pair, 1500, rng).mean() for s in settings_]
    noise = 1.7 * np.sqrt(0.93 * 0.07 / 4500)  # a one-sided 95% bound of the simulation's own error
    assert np.mean(rates) >= 0.93 - noise, rates
    assert min(rates) >= 0.915, rates


def test_naive_interval_over_items_would_not_cover() -> None:
    """The test above can fail: without the seeds' variance the same simulation covers far too little."""
    rng = np.random.default_rng(4)
    setting, pair = Setting(3, 200, 4), (Effect(1.0, seed=0.5), START)
    ease = rng.normal(0, 2, (1000, 200))
    from equipoise.trial.simulate import draw, expected

    a, b = draw(setting, pair[0], ease, rng), draw(setting, pair[1], ease, rng)
    parts = difference(a, b)
    truth = expected(setting, pair[0], rng) - expected(setting, pair[1], rng)
    assert np.mean(np.abs(parts.estimate - truth) <= 1.97 * np.sqrt(parts.items)) < 0.8


@pytest.mark.parametrize("arms", [2, 5])
def test_equal_methods_are_called_different_in_at_most_7_percent(arms: int) -> None:
    assert false_alarms(Setting(3, 60), arms, 200, np.random.default_rng(5)) <= 14


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0, 3))
def test_verdict_interval_and_level_agree(seed: int, arms: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    drawn = [Arm(f"m{k}", rng.normal(gap * (k > 1), 1, (3, 8)) + rng.normal(size=(3, 1))) for k in range(arms)]
    found = verdicts(drawn, "pass@1")
    assert len(found) == arms * (arms - 1) // 2
    for v in found:
        assert v.low is not None and v.high is not None and v.level is not None and v.level >= 0.95
        assert (v.winner is None) == (v.low <= 0 <= v.high) == v.verdict.startswith("cannot tell; ")
        assert v.low <= v.estimate <= v.high


def test_holm_steps_by_hand() -> None:
    """Three pairs with p-values p1 < p2 < p3 are held against 0.05/3, 0.05/2 and 0.05."""
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 0.02, (3, 3, 40))
    a, b, c = (Arm(n, noise[k] + x) for k, (n, x) in enumerate([("a", 0.9), ("b", 0.3), ("c", 0.295)]))
    found = {(v.a, v.b): v for v in verdicts([a, b, c], "pass@1")}
    p = sorted(float(p_value(difference(*pair))) for pair in ((a, b), (a, c), (b, c)))
    assert p[0] < p[1] < 0.05 / 3 and p[2] > 0.05
    assert sorted(v.level for v in found.values()) == pytest.approx([1 - 0.05 / 1, 1 - 0.05 / 2, 1 - 0.05 / 3])
    assert found["b", "c"].level == pytest.approx(0.95) and found["b", "c"].winner is None
    assert found["a", "b"].winner == "a" and found["a", "b"].verdict.startswith("a beats b by 0.59")


def test_lower_is_better_for_a_loss() -> None:
    rng = np.random.default_rng(7)
    good, bad = (Arm(n, x + 0.01 * rng.normal(size=(3, 30))) for n, x in (("good", 1.0), ("bad", 2.0)))
    [v] = verdicts([bad, good], "loss", higher=False)
    assert (
        v.winner == "good" and v.verdict.startswith("good beats bad by 1.0") and v.estimate == pytest.approx(1, abs=0.1)
    )


def test_one_seed_gives_no_interval_and_no_verdict() -> None:
    rng = np.random.default_rng(8)
    [v] = verdicts([Arm("one", rng.random((1, 20))), Arm("start", rng.random((1, 20)), fixed=True)], "pass@1")
    assert v.low is None and v.high is None and v.verdict == "cannot tell; one needs at least 2 seeds"
    assert arm_mean(Arm("one", rng.random((1, 20)))) is None
    with pytest.raises(ArgumentError, match="one seed"):
        difference(Arm("one", rng.random((1, 20))))


def test_differences_of_shares_stay_between_minus_1_and_1() -> None:
    a = Arm("a", np.array([[0.1] * 10, [0.9] * 10]))
    [free] = verdicts([a, Arm("start", np.zeros((1, 10)), fixed=True)], "pass@1")
    [cut] = verdicts([a, Arm("start", np.zeros((1, 10)), fixed=True)], "pass@1", most=1.0)
    assert free.high is not None and free.high > 1
    assert (cut.low, cut.high) == (-1.0, 1.0) and cut.winner is None


def test_an_arm_that_is_always_right_is_not_a_point() -> None:
    found = arm_mean(Arm("a", np.ones((3, 60))), share=True)
    assert found is not None and found.value == found.high == 1 and 0.9 < found.low < 0.96


def test_identical_arms_cannot_be_told_apart() -> None:
    x = np.random.default_rng(9).random((3, 20))
    [v] = verdicts([Arm("a", np.zeros((3, 20))), Arm("b", np.zeros((3, 20)))], "pass@1")
    assert v.winner is None and (v.low, v.high) == (0.0, 0.0)
    [v] = verdicts([Arm("a", x), Arm("b", x)], "pass@1")
    assert v.winner is None


def test_forecast_finds_the_difference_with_the_stated_power() -> None:
    """Run with as many seeds as forecast, a difference of the estimated size is found in about 80% of trials."""
    rng = np.random.default_rng(10)
    sigma, gap, m = 0.05, 0.06, 50

    def trial(n: int) -> Arm:
        return Arm("a", 0.5 + gap + sigma * rng.normal(size=(n, 1)) + 0.01 * rng.normal(size=(n, m)))

    start = Arm("start", np.full((1, m), 0.5), fixed=True)
    # a typical trial: the seeds' mean square and the gap are as they are expected to be
    typical = np.array([-1.0, 0.0, 1.0])[:, None] * sigma + 0.01 * rng.normal(size=(3, m))
    more = seeds_needed(difference(Arm("a", typical - typical.mean() + 0.5 + gap), start), 0.95)
    assert more is not None and 2 <= more <= 8
    found = [not (lo <= 0 <= hi) for lo, hi in (interval(difference(trial(3 + more), start)) for _ in range(400))]
    assert 0.7 <= np.mean(found) <= 0.95


def test_forecast_says_when_seeds_cannot_help() -> None:
    rng = np.random.default_rng(11)
    item = rng.normal(0, 1, 10)
    a = Arm("a", 0.1 + item + 0.001 * rng.normal(size=(3, 10)))
    [v] = verdicts([a, Arm("start", np.zeros((1, 10)), fixed=True)], "reward")
    assert v.verdict == "cannot tell; more seeds would not, more test items might"
