"""What a trial may conclude: intervals for differences between arms, and verdicts adjusted for their number.

An arm is an array [seeds, items]: for each seed's model, each held-out item's mean over samples. The arms share the
items; a seed is one training run, and the start model is an arm without seeds, [1, items].

**Variance.** Seeds are random and items are random (the claim is about fresh seeds and fresh prompts of the same
kind), so each arm follows the crossed two-way model value = mean + seed + item + residual, with mean squares S
(seeds), and R (residual) from its analysis of variance. For arms a and b with n_a and n_b seeds on m items, write
A = S_a / (n_a m), and the same for B; E = R_a / (n_a m) + R_b / (n_b m); and I = s^2 / m, where s^2 is the variance
over items of the difference between the arms' item means. Then

    V = A + B + I - E,   not below A + B and not below I,

estimates the variance of the difference of means: A and B hold the seeds' part and the residual, I the items' part and
the residual again, which E takes back. For a single arm, or against the start model (which has no A of its own; the
noise of its samples is in I), this is the usual (MS_seed + MS_item - MS_residual) / (n m). Items are paired, seeds are
not: pairing seeds would halve the degrees of freedom, which with 3 to 5 seeds costs more than the correlation between
two methods' runs of the same seed can return. Where that correlation is positive the interval is wider than it need be.

**Degrees of freedom.** Satterthwaite (1946) matches V's first two moments to a multiple of chi-squared:
f = (A + B + J)^2 / (A^2/(n_a - 1) + B^2/(n_b - 1) + J^2/(m - 1)) with J = max(I - E, 0). With 2 to 4 degrees of
freedom A and B are often far too small by chance, and then f is too large at the same time as V is too small. So f
alone is computed from cautious values, the 65% upper confidence bounds A (n_a - 1) / chi2_{0.35}(n_a - 1).
The interval is Student's with max(f, smallest n - 1) degrees of freedom; f's caution is chosen by simulation
(``python -m equipoise.trial.simulate``), which gives the coverage figures in ``docs/trials.md``.

**Number of verdicts.** Holm (1979): p-values ascending are compared with alpha/k, alpha/(k-1), ... until one fails.
Each printed interval has the level of its own comparison, 1 - alpha/(k - i + 1) at rank i, and from the first failure
on the level of that failure. So an interval excludes 0 exactly when its verdict says that one arm beats the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equipoise.errors import ArgumentError
from equipoise.evaluate.estimators import share_interval
from equipoise.types import Estimate

Floats = NDArray[np.float64]
Count = int | NDArray[np.integer]

ALPHA = 0.05
CAUTION = 0.35  # chi-squared quantile behind the cautious seed variance; with 0.4 the worst setting covers 92.9%
POWER = 0.8  # chance that "about n more seeds" aims at
MOST_SEEDS = 100  # further seeds beyond which a forecast says no more than "many"


@dataclass(frozen=True)
class Arm:
    """``values [..., seeds, items]``: per-item means. ``fixed``: the start model, one row that no seed drew."""

    name: str
    values: Floats
    fixed: bool = False


@dataclass(frozen=True)
class Parts:
    """The pieces of a difference's variance, each [...]: already divided by their numbers of seeds and items."""

    estimate: Floats  # difference of means
    seeds: tuple[tuple[Floats, Floats, int], ...]  # of each arm with seeds: (A, its residual, number of seeds)
    items: Floats  # I
    m: int  # items

    @property
    def residual(self) -> Floats:
        return sum((e for _, e, _ in self.seeds), np.zeros_like(self.items))

    def variance(self) -> Floats:
        """V [...]."""
        drawn = sum((a for a, _, _ in self.seeds), np.zeros_like(self.items))
        return np.maximum(np.maximum(drawn + self.items - self.residual, drawn), self.items)

    def freedom(self) -> Floats:
        """Degrees of freedom [...] of ``variance``."""
        cautious = [(a * (n - 1) / float(stats.chi2.ppf(CAUTION, n - 1)), n - 1) for a, _, n in self.seeds]
        terms = [*cautious, (np.maximum(self.items - self.residual, 0.0), self.m - 1)]
        return _satterthwaite(terms, least=min((n - 1 for _, _, n in self.seeds), default=self.m - 1))


def _satterthwaite(terms: Sequence[tuple[Floats, Count]], least: Count) -> Floats:
    """Degrees of freedom of a sum of independent mean squares (value, degrees of freedom), at least ``least``."""
    total = np.asarray(sum(x for x, _ in terms), dtype=np.float64)
    squares = np.asarray(sum(np.square(x) / f for x, f in terms), dtype=np.float64)
    ratio = np.divide(np.square(total), squares, out=np.zeros_like(total), where=squares > 0)
    return np.maximum(ratio, least)


def difference(a: Arm, b: Arm | None = None) -> Parts:
    """The parts of ``mean(a) - mean(b)``, or of ``mean(a)`` alone. Vectorised over leading axes.

    Raises ArgumentError when the arms differ in items, or an arm that has seeds has fewer than two.
    """
    arms = [a] if b is None else [a, b]
    m = a.values.shape[-1]
    for arm in arms:
        if arm.values.shape[-1] != m or m < 2:
            raise ArgumentError(
                f"arm {arm.name!r} has {arm.values.shape[-1]} items, expected {max(m, 2)} as the others"
            )
        if not arm.fixed and arm.values.shape[-2] < 2:
            raise ArgumentError(f"arm {arm.name!r} has one seed; the spread between seeds needs at least 2")
    rows = [arm.values.mean(axis=-2) for arm in arms]
    gap = rows[0] if b is None else rows[0] - rows[1]
    return Parts(
        estimate=gap.mean(axis=-1),
        seeds=tuple(_mean_squares(arm.values) for arm in arms if not arm.fixed),
        items=gap.var(axis=-1, ddof=1) / m,
        m=m,
    )


def _mean_squares(values: Floats) -> tuple[Floats, Floats, int]:
    """Mean squares of seeds and of the residual, divided by seeds x items, and the number of seeds."""
    n, m = values.shape[-2:]
    seed, item = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    residual = values - seed - item + values.mean(axis=(-2, -1), keepdims=True)
    between = seed[..., 0].var(axis=-1, ddof=1) / n
    return between, np.square(residual).sum(axis=(-2, -1)) / ((n - 1) * (m - 1)) / (n * m), n


def interval(parts: Parts, level: float = 1 - ALPHA) -> tuple[Floats, Floats]:
    """Low and high ends [...] of the interval at ``level``."""
    half = stats.t.ppf((1 + level) / 2, parts.freedom()) * np.sqrt(parts.variance())
    return parts.estimate - half, parts.estimate + half


def p_value(parts: Parts) -> Floats:
    """Two-sided p-value [...] of no difference. Without any spread: 1 for equal means, 0 for different ones."""
    error = np.sqrt(parts.variance())
    ratio = np.divide(
        np.abs(parts.estimate), error, out=np.where(np.abs(parts.estimate) > 0, np.inf, 0.0), where=error > 0
    )
    return np.asarray(2 * stats.t.sf(ratio, parts.freedom()), dtype=np.float64)


def arm_mean(arm: Arm, share: bool = False) -> Estimate | None:
    """An arm's mean over seeds and items with its 95% interval; None with fewer than two seeds.

    ``share``: values lie in [0, 1]. The interval is then cut to that, and is at least Wilson's over the items' means,
    because where all values are 0 or all are 1 no spread can be seen.
    """
    if not arm.fixed and arm.values.shape[-2] < 2:
        return None
    parts = difference(arm)
    low, high = (float(x) for x in interval(parts))
    if share:
        wilson = share_interval(arm.values.mean(axis=-2))
        low, high = max(0.0, min(low, wilson.low)), min(1.0, max(high, wilson.high))
    return Estimate(float(parts.estimate), low, high)


@dataclass(frozen=True)
class Verdict:
    """``estimate`` is mean(a) - mean(b) in the metric's units. ``low`` and ``high`` are None when there is no interval,
    because an arm has fewer than two seeds. ``verdict`` says it in words."""

    a: str
    b: str
    metric: str
    estimate: float
    low: float | None
    high: float | None
    verdict: str
    winner: str | None = None
    level: float | None = None  # of the interval: Holm's, so at least 0.95


def verdicts(
    arms: Sequence[Arm], metric: str, higher: bool = True, alpha: float = ALPHA, most: float = np.inf
) -> list[Verdict]:
    """One verdict for every pair, in the order of ``arms``; Holm-adjusted over the pairs that can be tested.

    ``higher``: more of the metric is better. ``most``: the largest difference that can be; intervals are cut to it.
    """
    pairs = list(combinations(arms, 2))
    testable = [k for k, pair in enumerate(pairs) if all(arm.fixed or arm.values.shape[-2] >= 2 for arm in pair)]
    parts = {k: difference(*pairs[k]) for k in testable}
    levels = _holm_levels({k: float(p_value(parts[k])) for k in testable}, alpha)
    return [
        _verdict(a, b, metric, parts[k], levels[k], higher, most) if k in parts else _untested(a, b, metric)
        for k, (a, b) in enumerate(pairs)
    ]


def _holm_levels(p: Mapping[int, float], alpha: float) -> dict[int, float]:
    """The level of each interval, by the rank of its p-value."""
    levels: dict[int, float] = {}
    divisor, failed = len(p), False
    for key in sorted(p, key=lambda k: p[k]):
        levels[key] = 1 - alpha / divisor
        failed = failed or p[key] > alpha / divisor
        divisor = divisor if failed else divisor - 1
    return levels


def _verdict(a: Arm, b: Arm, metric: str, parts: Parts, level: float, higher: bool, most: float) -> Verdict:
    low, high = (float(np.clip(x, -most, most)) for x in interval(parts, level))
    d = float(parts.estimate)
    if low <= 0 <= high:
        return Verdict(a.name, b.name, metric, d, low, high, f"cannot tell; {_forecast(parts, level)}", None, level)
    first, second = (a, b) if (d > 0) == higher else (b, a)
    near, far = sorted((abs(low), abs(high)))
    text = f"{first.name} beats {second.name} by {abs(d):.3f} [{near:.3f}, {far:.3f}]"
    return Verdict(a.name, b.name, metric, d, low, high, text, first.name, level)


def _untested(a: Arm, b: Arm, metric: str) -> Verdict:
    short = " and ".join(arm.name for arm in (a, b) if not arm.fixed and arm.values.shape[-2] < 2)
    d = float(a.values.mean() - b.values.mean())
    return Verdict(a.name, b.name, metric, d, None, None, f"cannot tell; {short} needs at least 2 seeds")


def _forecast(parts: Parts, level: float) -> str:
    more = seeds_needed(parts, level)
    if more is not None:
        return f"about {more} more seed{'s' if more > 1 else ''} would"
    endless = float(np.sqrt(max(float(parts.items - parts.residual), 0.0)))
    wanted = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))
    if parts.estimate != 0 and wanted * endless > abs(float(parts.estimate)):
        return "more seeds would not, more test items might"
    return f"over {MOST_SEEDS} more seeds would"


def seeds_needed(parts: Parts, level: float) -> int | None:
    """How many more seeds an arm would probably settle the pair; None when ``MOST_SEEDS`` would not.

    The smallest number at which a true difference as large as the estimate is found with probability ``POWER``, with
    the variance parts as estimated: |d| >= (t_level + t_power) sqrt(V). A forecast from few seeds, hence "about".
    """
    now = max((n for _, _, n in parts.seeds), default=0)
    if now == 0:
        return None
    n = np.arange(now + 1, now + MOST_SEEDS + 1)
    # one seed's variance, noise included, is A * seeds; it is spread over n
    drawn = [max(float(a), float(e)) * old / n for a, e, old in parts.seeds]
    fixed = np.full(len(n), max(float(parts.items - parts.residual), 0.0))
    freedom = _satterthwaite([*((a, n - 1) for a in drawn), (fixed, parts.m - 1)], n - 1)
    reach = stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(POWER, freedom)
    enough = abs(float(parts.estimate)) >= reach * np.sqrt(sum(drawn) + fixed)
    return int(n[enough][0]) - now if enough.any() else None
