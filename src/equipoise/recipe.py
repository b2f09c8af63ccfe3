"""What a method is made of: streams of groups, in stages, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.protocols import Part
from equipoise.types import Adjust, ModelInfo, Objective


@dataclass(frozen=True)
class About:
    """What ``equipoise methods`` shows of a recipe. ``needs``: "verifier", "demonstrations" or "pairs"."""

    title: str
    arxiv: str | None
    family: str
    summary: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Updates:
    """How often a step's groups are used: ``epochs`` passes, each cut into ``minibatches`` optimiser steps."""

    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ArgumentError(f"epochs={self.epochs}, minibatches={self.minibatches}: both must be at least 1")

    @property
    def steps(self) -> int:
        return self.epochs * self.minibatches


@dataclass(frozen=True)
class Stream:
    """source -> signal -> credit -> objective. Without an objective its groups go to the store ``store``."""

    source: Part
    objective: Objective | None
    signal: Part | None = None
    credit: Part | None = None
    updates: Updates = field(default_factory=Updates)
    store: str | None = None

    @property
    def parts(self) -> Sequence[Part]:
        return [p for p in (self.source, self.signal, self.credit) if p is not None]

    @property
    def needs(self) -> frozenset[str]:
        """All that its parts and its objective ask of the engine."""
        asked = frozenset().union(*(p.needs for p in self.parts))
        return asked | (self.objective.needs if self.objective else frozenset())


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the share of the stage's budget that is spent.

    ``peak`` None: suggested from the model's size (``suggested``), times ``scale``.
    """

    peak: float | None
    shape: Callable[[float], float]
    name: str
    scale: float = 1.0

    def lr(self, progress: float, info: ModelInfo) -> float:
        return self.resolve(info) * self.shape(min(max(progress, 0.0), 1.0))

    def resolve(self, info: ModelInfo) -> float:
        """The peak learning rate for this model."""
        return self.peak if self.peak is not None else self.scale * suggested(info)


def constant(peak: float | None, scale: float = 1.0) -> Schedule:
    """The peak throughout, after a warm-up over the first 3% of the stage."""
    return Schedule(peak, lambda t: min(1.0, (t + 0.003) / 0.03), "warm-up, then constant", scale)


def linear(peak: float | None, scale: float = 1.0) -> Schedule:
    """A warm-up over the first 3% of the stage, then down in a line to a tenth of the peak."""
    return Schedule(
        peak, lambda t: min(1.0, (t + 0.003) / 0.03) * (1 - 0.9 * t), "warm-up, then linear to a tenth", scale
    )


def suggested(info: ModelInfo) -> float:
    """A learning rate for policy gradients from the number of parameters: a power law through what worked here,
    5e-4 at 0.8M and 2e-5 at 135M parameters; ten times that for LoRA, never above 1e-3."""
    full = 5e-4 * (info.parameters / 0.8e6) ** -0.63
    return float(f"{min(full * (10 if info.trainable < info.parameters else 1), 1e-3):.2g}")


@dataclass(frozen=True)
class Event:
    """After every ``every`` steps of a stage: the named weights ``into`` become a combination of named weights.

    When the stage begins they are the policy's. ``average`` is the usual one. Into "current" it clears the optimiser.
    """

    into: str
    weights: Mapping[str, float]  # name -> weight; "current" is the policy
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or not self.weights:
            raise ArgumentError(f"every={self.every}, weights={dict(self.weights)}: expected at least 1 of either")
        if self.into in ("start", "base"):
            raise ArgumentError(f"into={self.into!r}: that name is kept for a fixed policy; choose another")

    def __str__(self) -> str:
        mixed = " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())
        return f"{self.into} <- {mixed}, every {self.every} step{'s' * (self.every > 1)}"


def average(into: str, rate: float, every: int = 1) -> Event:
    """``into`` follows the policy as an exponential moving average: at rate 0 it stays, at 1 it is the policy."""
    if not 0 <= rate <= 1:
        raise ArgumentError(f"rate={rate}: the share of the policy in a moving average; expected a number in [0, 1]")
    return Event(into, {into: 1.0 - rate, "current": rate}, every)


@dataclass(frozen=True)
class Stage:
    """Streams trained side by side until the share ``until`` of the whole budget is spent or a source runs dry.

    "start" is the policy when the stage begins. ``restart``: begin from the run's "base" weights. ``events``: what is
    done with named weights after a step.
    """

    streams: Sequence[Stream]
    lr: Schedule
    until: float = 1.0
    restart: bool = False
    name: str = "train"
    steps: int | None = None  # at most so many steps
    events: Sequence[Event] = ()

    @property
    def spends(self) -> frozenset[str]:
        """Units of a budget that this stage uses up."""
        units = frozenset({"flops", "usd", "seconds"}).union(*(p.spends for s in self.streams for p in s.parts))
        return units | ({"trained_tokens"} if any(s.objective for s in self.streams) else set())

    @property
    def finite(self) -> bool:
        """Whether it ends without a budget: by a number of steps, or because a source runs dry."""
        return self.steps is not None or any("passes" in s.source.sizes for s in self.streams)


@dataclass(frozen=True)
class Recipe:
    """A method, ready to run. ``budget`` holds when the user gives none. ``adjust``: how its policy is decoded where it
    is evaluated, if the logits are not all there is to it."""

    name: str
    stages: Sequence[Stage]
    budget: Budget
    adjust: Adjust | None = None

    def __post_init__(self) -> None:
        ends = [stage.until for stage in self.stages]
        if ends != sorted(ends) or not ends or not 0 < ends[-1] <= 1 or ends[0] <= 0:
            raise ArgumentError(
                f"{self.name}: stages end at shares {ends} of the budget; expected rising shares in (0, 1]"
            )
        kept: set[str] = set()
        for stage in self.stages:
            kept |= {event.into for event in stage.events}
            _named(f"{self.name}, stage {stage.name}", stage, kept)
            for stream in stage.streams:
                _connect(f"{self.name}, stage {stage.name}", stream)

    @property
    def needs(self) -> frozenset[str]:
        """Of the engine: outputs and named policies."""
        mixed = {f"policy:{name}" for stage in self.stages for e in stage.events for name in (e.into, *e.weights)}
        asked = frozenset().union(*(s.needs for stage in self.stages for s in stage.streams))
        asked |= self.adjust.needs if self.adjust else frozenset()
        return asked | (mixed - {"policy:current"})

    @property
    def heads(self) -> list[str]:
        """Names of the heads that the engine needs."""
        return sorted(need.removeprefix("head:") for need in self.needs if need.startswith("head:"))

    @property
    def spends(self) -> frozenset[str]:
        """Units of a budget that this method can use up."""
        return frozenset().union(*(stage.spends for stage in self.stages))


# What can be had from other parts; everything else that is needed is the engine's or the loop's to provide.
_PROVIDERS = {
    "scores": "signals.verified, or a source of stored groups",
    "advantage": "credit.center, credit.leave_one_out, credit.subtract, credit.by_outcome, credit.returns, credit.gae",
    "note:return": "credit.gae",
    "note:value": "credit.gae",
    "note:pass_rate": "credit.pass_rate",
    "note:right": "credit.pass_rate",
    "note:spared": "credit.spare_right_steps",
    "note:kl_weight": "credit.ease_kl",
    "note:first_turn": "credit.by_turn",
    "note:demonstrated": "signals.beside_demonstration",
    "note:budget": "sources.announced",
    "note:cut": "sources.interrupted",
}


def policies(needs: Iterable[str]) -> set[str]:
    """The named policies that needs speak of: "policy:<name>", "logp:<name>", "logsumexp:<name>"."""
    return {n.partition(":")[2] for n in needs if n.startswith(("policy:", "logp:", "logsumexp:"))}


def _named(where: str, stage: Stage, kept: Collection[str]) -> None:
    """Check that every policy that a stage names exists in it. ``kept``: those of its events and of earlier stages.
    Raises ArgumentError."""
    known = {"current", "start", "base", *kept}
    asked = policies(n for s in stage.streams for n in s.needs)
    for name in sorted(asked.union(*(e.weights for e in stage.events)) - known):
        raise ArgumentError(
            f"{where}: no policy is called {name!r}; there are {', '.join(sorted(known))}. An event of the stage keeps "
            f"more of them: Event(into={name!r}, ...)"
        )


def _connect(where: str, stream: Stream) -> None:
    """Check that what each part needs is given before it. Raises ArgumentError naming both sides."""
    given: frozenset[str] = frozenset()
    takers = [(p.name, p.needs, p.gives) for p in stream.parts]
    if stream.objective is not None:
        takers.append((stream.objective.formula, stream.objective.needs, frozenset()))
    for name, needs, gives in takers:
        for need in sorted(needs - given):
            if need in _PROVIDERS:
                raise ArgumentError(f"{where}: {name!r} needs {need!r}; it is given by {_PROVIDERS[need]}")
        given |= gives
