"""A claim: what a paper says of its method, as arms, a metric, a direction and the smallest effect that matters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from equipoise.errors import ArgumentError
from equipoise.trial.result import START
from equipoise.trial.runner import ArmSpec


@dataclass(frozen=True)
class Contrast:
    """Two arms (or "start", the untrained model), a metric, and whether more of it is better."""

    better: str
    worse: str
    metric: str = "pass@1"
    higher: bool = True

    def __str__(self) -> str:
        return f"{self.metric}: {self.better} {'above' if self.higher else 'below'} {self.worse}"


@dataclass(frozen=True)
class Claim:
    """One claim, everything decided before its result is known.

    The deciding contrast is ``better`` against ``worse`` on ``metric``; ``matters`` is in that metric's units.
    ``also``: further contrasts, reported and not deciding. ``lr_scales``: learning rates tried for each arm, as
    multiples of its default; (1.0,): no tuning. A try has ``tuning_share`` of the budget. ``items`` and ``samples``
    are the test's. ``smoke_share``: of the budget, with which every stage makes an update. Raises ArgumentError for
    what contradicts itself.
    """

    id: str
    title: str
    arxiv: str
    says: str
    differs: str  # from the paper, and could explain a failure
    arms: tuple[ArmSpec, ...]
    better: str
    worse: str
    matters: float
    metric: str = "pass@1"
    higher: bool = True
    also: tuple[Contrast, ...] = ()
    task: str = "lists"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    model: str = "tiny"
    budget: Mapping[str, float] = field(default_factory=lambda: {"flops": 3e11})
    seeds: int = 5
    items: int = 200
    samples: int = 4
    lr_scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    tuning_share: float = 0.25
    smoke_share: float = 0.1

    def __post_init__(self) -> None:
        labels = {START, *(arm.label for arm in self.arms)}
        for contrast in self.contrasts:
            if missing := {contrast.better, contrast.worse} - labels:
                raise ArgumentError(f"{self.id}: {contrast} names {sorted(missing)}; the arms are {sorted(labels)}")
            if (k := of_samples(contrast.metric)) > self.samples:
                raise ArgumentError(
                    f"{self.id}: {contrast.metric} needs {k} samples an item, and samples={self.samples}"
                )
        if not self.matters > 0 or not self.budget or not self.lr_scales or not 0 < self.tuning_share <= 1:
            raise ArgumentError(
                f"{self.id}: matters={self.matters}, budget={dict(self.budget)}, lr_scales={self.lr_scales}, "
                f"tuning_share={self.tuning_share}: expected positive numbers, and a share of at most 1"
            )

    @property
    def deciding(self) -> Contrast:
        return Contrast(self.better, self.worse, self.metric, self.higher)

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The deciding one first."""
        return (self.deciding, *self.also)

    @property
    def method(self) -> str:
        """The method that the claim is about: the better arm's, or the first arm's where that is the start model."""
        return next((arm.method for arm in self.arms if arm.label == self.better), self.arms[0].method)

    @property
    def ks(self) -> list[int]:
        """The k of pass@k and maj@k that the contrasts ask for; 1 and all samples besides."""
        return sorted({1, self.samples, *(of_samples(c.metric) for c in self.contrasts)})


def of_samples(metric: str) -> int:
    """k of a metric pass@k or maj@k; 1 for others."""
    found = re.fullmatch(r"(?:pass|maj)@(\d+)", metric)
    return int(found[1]) if found else 1
