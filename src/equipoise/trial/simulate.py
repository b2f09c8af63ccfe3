"""How good the trial's statistics are, by simulation: coverage of the interval, and false verdicts in A/A trials.

    python -m equipoise.trial.simulate [REPEATS]

Each trial draws items of widely different difficulty (normal log-odds), for each arm an effect of its own on each
item, for each seed a shift of the log-odds and noise on each item, and for each sample a coin with that probability.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from equipoise.trial.statistics import Arm, Floats, difference, interval, verdicts


@dataclass(frozen=True)
class Effect:
    """What a method does to the log-odds of a right answer. ``frozen``: the start model, nothing random but samples."""

    gain: float = 0.0  # on every item
    seed: float = 0.2  # standard deviation between seeds
    item: float = 0.5  # of the method's own effect on an item
    noise: float = 0.5  # of a seed's effect on an item
    frozen: bool = False


@dataclass(frozen=True)
class Setting:
    """Sizes of a trial and the difficulty of its items."""

    seeds: int = 3
    items: int = 200
    samples: int = 4
    difficulty: float = 0.0  # mean log-odds
    spread: float = 2.0  # standard deviation of the items' log-odds


START = Effect(seed=0.0, item=0.0, noise=0.0, frozen=True)
PAIRS: tuple[tuple[Effect, Effect], ...] = (
    (Effect(seed=0.0), Effect(seed=0.0)),
    (Effect(seed=0.2), Effect(seed=0.2)),
    (Effect(seed=0.5), Effect(seed=0.5)),
    (Effect(1.0, seed=0.05), Effect(seed=0.5)),
    (Effect(1.0, seed=0.6), Effect(0.5, seed=0.1)),
    (Effect(1.0, seed=0.15), START),
    (Effect(1.0, seed=0.3), START),
)


def draw(setting: Setting, effect: Effect, ease: Floats, rng: np.random.Generator, name: str = "arm") -> Arm:
    """One arm of many trials at once. ``ease [trials, items]``: the items' log-odds; values [trials, seeds, items]."""
    seeds = 1 if effect.frozen else setting.seeds
    trials, items = ease.shape
    logit = ease[:, None, :] + effect.gain + effect.item * rng.normal(size=(trials, 1, items))
    logit = logit + effect.seed * rng.normal(size=(trials, seeds, 1))
    logit = logit + effect.noise * rng.normal(size=(trials, seeds, items))
    return Arm(name, rng.binomial(setting.samples, _sigmoid(logit)) / setting.samples, effect.frozen)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float64)


def expected(setting: Setting, effect: Effect, rng: np.random.Generator, draws: int = 400_000) -> float:
    """The arm's true mean over items, seeds and samples."""
    width = np.sqrt(setting.spread**2 + effect.seed**2 + effect.item**2 + effect.noise**2)
    half = rng.normal(size=draws // 2)
    return float(_sigmoid(setting.difficulty + effect.gain + width * np.concatenate([half, -half])).mean())


def covered(setting: Setting, pair: tuple[Effect, Effect], trials: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the 95% interval of each simulated trial holds the true difference, [trials]."""
    ease = rng.normal(setting.difficulty, setting.spread, (trials, setting.items))
    a, b = (draw(setting, effect, ease, rng) for effect in pair)
    low, high = interval(difference(a, b))
    truth = expected(setting, pair[0], rng) - expected(setting, pair[1], rng)
    return np.asarray((low <= truth) & (truth <= high))


def false_alarms(setting: Setting, arms: int, trials: int, rng: np.random.Generator, seed: float = 0.2) -> int:
    """In how many of ``trials`` some pair of ``arms`` equal methods is called different, after Holm's adjustment."""
    ease = rng.normal(setting.difficulty, setting.spread, (trials, setting.items))
    drawn = [draw(setting, Effect(seed=seed), ease, rng, f"arm {k}") for k in range(arms)]
    return sum(_any_winner([replace(arm, values=arm.values[t]) for arm in drawn]) for t in range(trials))


def _any_winner(arms: Sequence[Arm]) -> bool:
    return any(v.winner is not None for v in verdicts(arms, "pass@1"))


def main(trials: int = 4000) -> None:
    rng = np.random.default_rng(0)
    print("coverage of the 95% interval, in %, by setting (rows) and pair of arms (columns)")
    worst = 1.0
    for seeds in (3, 5):
        for items, samples in ((50, 4), (200, 1), (200, 4), (400, 8)):
            for difficulty in (0.0, -3.0):
                setting = Setting(seeds, items, samples, difficulty)
                rates = [float(covered(setting, pair, trials, rng).mean()) for pair in PAIRS]
                worst = min(worst, *rates)
                cells = "  ".join(f"{100 * r:5.1f}" for r in rates)
                print(
                    f"{seeds} seeds {items:3d} items x {samples} samples, log-odds {difficulty:4.1f}: {cells}",
                    flush=True,
                )
    print(f"worst: {100 * worst:.1f}")
    for seeds in (3, 5):
        for arms in (2, 5):
            count = false_alarms(Setting(seeds), arms, trials // 4, rng)
            print(f"A/A trials of {arms} arms, {seeds} seeds: {count} of {trials // 4} called different", flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
