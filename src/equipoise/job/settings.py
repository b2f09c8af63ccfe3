"""What a run is told: everything that ``run.toml`` holds and ``--from run.toml`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from equipoise.budget import Budget, Prices
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError, UnknownName


@dataclass(frozen=True)
class EvalSettings:
    """Scheduled evaluation on validation, charged. ``points`` None: up to 5 within a quarter of the budget."""

    points: int | None = None
    items: int = 64
    samples: int = 4

    def __post_init__(self) -> None:
        _at_least("eval.points", self.points, 0)
        _at_least("eval.items", self.items, 2)
        _at_least("eval.samples", self.samples, 1)


@dataclass(frozen=True)
class TestSettings:
    """The final test, recorded and not charged. ``start``: the start model is tested as well."""

    items: int = 200
    samples: int = 4
    start: bool = True

    def __post_init__(self) -> None:
        _at_least("test.items", self.items, 2)
        _at_least("test.samples", self.samples, 1)


@dataclass(frozen=True)
class Cluster:
    """Processes of ``--engine ray``. ``ray_address``: of a running cluster; None: one is started for the run.
    ``retries``: how often a run goes on from its last checkpoint by itself, when a process was lost."""

    learners: int = 1
    samplers: int = 1
    sampler: str = "local"
    ray_address: str | None = None
    retries: int = 3
    deadline_s: float = 1800.0

    def __post_init__(self) -> None:
        _at_least("learners", self.learners, 1)
        _at_least("samplers", self.samplers, 1)
        _at_least("retries", self.retries, 0)
        _at_least("deadline-s", self.deadline_s, 1)


@dataclass(frozen=True)
class Settings:
    """One run. Names of fields are those of the command line."""

    method: str
    task: str
    model: str
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    lora_rank: int | None = None
    checkpointing: bool = False
    ahead: int = 0  # steps drawn before the policy is there that learns from them
    truncate: float | None = None  # most weight of truncated importance sampling; None: no such weights
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the recipe
    knobs: Mapping[str, Any] = field(default_factory=dict)  # of the task
    budget: Budget = field(default_factory=Budget)  # empty: the recipe's own
    prices: Prices = field(default_factory=Prices)
    optimiser: Optimiser = field(default_factory=Optimiser)
    eval: EvalSettings = field(default_factory=EvalSettings)
    test: TestSettings = field(default_factory=TestSettings)
    track: str | None = None
    preflight: bool = True
    allow: tuple[str, ...] = ()
    threads: int | None = None
    checkpoint_s: float = 60.0
    cluster: Cluster | None = None  # None: the local engine

    def __post_init__(self) -> None:
        _at_least("lora.rank", self.lora_rank, 1)
        _at_least("threads", self.threads, 1)
        _at_least("seed", self.seed, 0)
        _at_least("ahead", self.ahead, 0)

    def json(self) -> dict[str, Any]:
        """Plain data, for TOML and for other processes."""
        return asdict(self)


def settings(content: Mapping[str, Any]) -> Settings:
    """From plain data. Raises UnknownName for a field that does not exist, ArgumentError for a missing one."""
    known = {f.name for f in fields(Settings)}
    for name in content:
        if name not in known:
            raise UnknownName("setting", name, known)
    for name in ("method", "task", "model"):
        if name not in content:
            raise ArgumentError(f"the settings lack {name!r}")
    nested = {
        "budget": Budget,
        "prices": Prices,
        "optimiser": Optimiser,
        "eval": EvalSettings,
        "test": TestSettings,
        "cluster": Cluster,
    }
    made = {
        name: nested[name](**value) if name in nested and value is not None else value
        for name, value in content.items()
    }
    return Settings(**{**made, "allow": tuple(content.get("allow", ()))})


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ArgumentError(f"--{name} is {value}; expected at least {least}")
