"""What is planned: a cluster, a model, the work of a step, and every assumption about how well hardware is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from equipoise.errors import ArgumentError, UnknownName
from equipoise.plan import hardware
from equipoise.plan.hardware import Gpu, Shape

PUBLISH = ("held", "background")
LAUNCH = ("driver", "free")


def _of(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Cluster:
    """The numbers of a plan; a TOML file may hold any of them under these names. Raises ArgumentError, UnknownName."""

    model: str | Mapping[str, Any] = _of("7b", "a shape: 7b, 70b; in a file also a table of one's own")
    gpu: str | Mapping[str, Any] = _of("h100", "a100, h100, h200; in a file also a table of one's own")
    learners: int = _of(4, "accelerators that learn, as ranks of FSDP")
    samplers: int = _of(4, "engines that generate")
    sampler_gpus: int = _of(1, "accelerators of one sampler, as tensor parallel ranks")
    ahead: int = _of(1, "step s is sampled by version max(0, s - ahead)")
    prompts: int = _of(512, "a step")
    samples: int = _of(16, "a prompt")
    prompt_tokens: int = _of(512, "of every prompt")
    response_tokens: float = _of(2048.0, "mean length of a response, before the limit")
    spread: float = _of(0.8, "standard deviation of the logarithm of a response's length; 0: all are equal")
    response_max: int = _of(8192, "limit of a response, tokens")
    steps: int = _of(6, "with lengths of their own, which are played in turn")
    seed: int = _of(0, "of the lengths")
    mfu: float = _of(0.40, "share of peak FLOP/s that learning reaches, and the computation of generation")
    memory_use: float = _of(0.60, "share of peak memory bandwidth that generation reaches")
    room: float = _of(0.90, "share of memory that weights, cache and optimiser may fill")
    token_step_s: float = _of(0.003, "added to each token step of a sampler: scheduling, launches, collectives")
    rows: int = _of(512, "responses in flight in a sampler, at most")
    micro_tokens: int = _of(16384, "of a micro-batch of one rank")
    trainable: float = _of(1.0, "share of the parameters; below 1: an adapter on frozen weights")
    publish: str = _of("held", "held: learners wait while they send weights; background: they go on from a copy")
    launch: str = _of("driver", "driver: one launches each step on all samplers at once; free: each goes on by itself")
    senders: int | None = _of(None, "links that send weights (default: one of each learner; 1: gathered first)")
    swap_s: float = _of(0.5, "for a sampler to take weights at a launch: pause, load, clear its prefix cache")
    latency_s: float = _of(0.05, "of a publication, beside its bytes")
    score_s: float = _of(0.0, "a step, between the last response and learning: verifiers, credit")

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _LEAST and value is not None:
                whole = f.name in _WHOLE
                kind = "a whole number" if whole else "a number"
                right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
                if not right or not _LEAST[f.name] <= value < math.inf:
                    raise ArgumentError(f"{f.name} is {value!r}; expected {kind} of at least {_LEAST[f.name]:g}")
        for name in ("mfu", "memory_use", "room", "trainable"):
            if not 0 < getattr(self, name) <= 1:
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; expected a share above 0 and at most 1")
        if self.publish not in PUBLISH:
            raise UnknownName("way to publish", str(self.publish), PUBLISH)
        if self.launch not in LAUNCH:
            raise UnknownName("way to launch", str(self.launch), LAUNCH)
        if self.senders is not None and self.senders > self.learners:
            raise ArgumentError(f"senders is {self.senders} of {self.learners} learners; expected at most as many")
        if self.response_tokens > self.response_max:
            raise ArgumentError(
                f"response_tokens is {self.response_tokens:g} and response_max {self.response_max}: a mean above the "
                "limit. Raise response_max."
            )
        _ = self.figures, self.shape  # their names are checked now

    @property
    def gpus(self) -> int:
        return self.learners + self.samplers * self.sampler_gpus

    @property
    def figures(self) -> Gpu:
        return hardware.gpu(self.gpu)

    @property
    def shape(self) -> Shape:
        return hardware.shape(self.model)


_WHOLE = {"learners", "samplers", "sampler_gpus", "ahead", "prompts", "samples", "prompt_tokens", "response_max"}
_WHOLE |= {"steps", "seed", "rows", "micro_tokens", "senders"}
_LEAST = dict.fromkeys(_WHOLE, 1) | {"ahead": 0, "seed": 0, "spread": 0, "response_tokens": 1}
_LEAST |= dict.fromkeys(("token_step_s", "swap_s", "latency_s", "score_s"), 0)


def read(path: Path) -> dict[str, Any]:
    """The numbers of a TOML file. Raises RecordError, UnknownName."""
    from equipoise.record.folder import read_toml

    found = read_toml(path)
    names = [f.name for f in fields(Cluster)]
    for name in found:
        if name not in names:
            raise UnknownName("number of a cluster", name, names)
    return found
