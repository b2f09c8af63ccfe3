"""What an engine must do, and what a part is. The loop and the parts know engines only through this page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from equipoise.keys import Key
from equipoise.types import Cost, Decoder, Group, ModelInfo, Objective, Prompt, Reply, Response, Totals

TokenNotes = dict[str, tuple[NDArray[np.floating], ...]]  # name -> one [n] per response of a group


class Engine(Protocol):
    """The only code that touches model tensors."""

    @property
    def info(self) -> ModelInfo: ...

    def spent(self) -> Cost:
        """Generated tokens, trained tokens and FLOPs since the engine was made; only ever grows."""

    def encode(self, prompt: Prompt) -> Prompt:
        """Fill ``prompt.ids`` (chat template with generation prompt; plain text as it is).

        Raises ModelError when the prompt leaves no room for a response or the model has no chat template."""

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        """A given reply as a response to an encoded prompt: every assistant turn trained with its end token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Callable[[Response], Sequence[int] | None] | None = None,
    ) -> list[Group]:
        """``n`` responses to each encoded prompt, one group a prompt, in order. Sample ``i`` of prompt ``j`` draws
        its tokens from ``keys[j] / i``."""

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        """Without gradient, per group and response [n] (0 where untrained): "logp", "entropy", "head:<name>"."""

    def backward(
        self, groups: Sequence[Group], objective: Objective, totals: Totals
    ) -> tuple[dict[str, tuple[float, float]], list[TokenNotes]]:
        """Add the gradient of the objective's plain sum over groups. Metrics as (sum, count), summed over groups;
        notes per group: "logp" before the update."""

    def step(self, lr: float) -> dict[str, float]:
        """One optimiser step; clears the gradient. Metrics: grad_norm. Raises Diverged on NaN or infinity."""

    def discard(self) -> None:
        """Forget the gradient accumulated so far."""

    def combine(self, into: str, weights: Mapping[str, float]) -> None:
        """Named weights as a linear combination of named weights ("current" is one): snapshots, averages, merges."""

    def save(self, folder: Path) -> None:
        """The whole training state (weights, snapshots, heads, optimiser) as safetensors and JSON."""

    def load(self, folder: Path) -> None:
        """What ``save`` wrote. Raises RecordError when it is damaged or belongs to another model."""

    def export(self, folder: Path, merge: bool = True) -> None:
        """The policy as a plain Hugging Face folder with tokenizer and template."""


class Ledger(Protocol):
    """Meters spending against a budget (``equipoise.budget``)."""

    def charge(self, what: str, cost: Cost) -> None: ...
    def fraction(self) -> float: ...


@dataclass(frozen=True)
class Context:
    """What a part may use: the engine, a key of its own, this step's knobs, the ledger."""

    engine: Engine
    key: Key
    ledger: Ledger
    step: int = 0
    knobs: Mapping[str, float] = field(default_factory=dict)
    limit: int | None = None  # at most so many prompts this step (the last steps shrink)

    def at(self, name: int | str) -> Context:
        return replace(self, key=self.key / name)


State = Any  # JSON-able; whatever a part must remember lives here and nowhere else
Part = Callable[[Context, list[Group], State], tuple[list[Group], State]]
