"""What an engine must do, and what a part is. The loop and the parts know engines only through this page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from equipoise.keys import Key
from equipoise.types import Cost, Decoder, Group, ModelInfo, Objective, Prompt, Reply, Response, Totals

TokenNotes = dict[str, tuple[NDArray[np.floating], ...]]  # name -> one [n] per response of a group
Environment = Callable[
    [Prompt, Response], Sequence[int] | None
]  # what the policy hears after a finished turn, if anything


class Sampling(Protocol):
    """What can be asked of policies without learning: the part of an engine that sources use."""

    @property
    def info(self) -> ModelInfo: ...

    def spent(self) -> Cost:
        """Generated tokens, trained tokens and FLOPs since the engine was made; only ever grows."""

    def bound(self, prompt_tokens: int, n: int, longest: int, sampled: bool, forward: int, backward: int) -> Cost:
        """The most that one group can cost: sampling (if ``sampled``) ``n`` responses of at most ``longest`` tokens,
        then ``forward`` passes without and ``backward`` passes with gradient. Actual spending never exceeds it."""

    def encode(self, prompt: Prompt) -> Prompt:
        """Fill ``prompt.ids`` (chat template with generation prompt; plain text as it is).

        Raises ModelError when the prompt leaves no room for a response or the model has no chat template."""

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        """A given reply as a response to an encoded prompt: every assistant turn trained with its end token."""

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Tokens of a piece of text inside a response: no template, no special tokens."""

    def encode_turn(self, text: str) -> tuple[int, ...]:
        """What follows a finished response when the user says ``text`` next: up to where the policy speaks again."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        """``n`` responses to each encoded prompt, one group a prompt, in order. Sample ``i`` of prompt ``j`` draws
        its tokens from ``keys[j] / i``. ``reply``: hears each finished turn, and what it says the policy hears next."""


class Engine(Sampling, Protocol):
    """The only code that touches model tensors."""

    def snapshot(self, policies: Collection[str] = ()) -> Sampling | None:
        """What samples with today's weights from another thread while this engine learns, and meters what it spends
        itself: of the current policy, those named here and all that were sampled from before. None where sampling and
        learning take turns anyway."""

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        """Without gradient, per group and response [n] (0 where untrained): "logp", "entropy", "logsumexp",
        "head:<name>"."""

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
        """Named weights as a linear combination of named weights ("current" is one): snapshots, averages, merges.
        Into "current" it also clears the optimiser."""

    def save(self, folder: Path) -> None:
        """The whole training state (weights, snapshots, heads, optimiser) as safetensors and JSON."""

    def load(self, folder: Path) -> None:
        """What ``save`` wrote. Raises RecordError when it is damaged or belongs to another model."""

    def export(self, folder: Path, merge: bool = True) -> None:
        """The policy as a plain Hugging Face folder with tokenizer and template."""

    def timings(self) -> dict[str, float]:
        """What it took to move weights between processes, by name, since it was last asked; empty where none are."""

    def close(self) -> None:
        """End the processes that it started, if any. It may be called again."""


class Ledger(Protocol):
    """Meters spending against a budget (``equipoise.budget``)."""

    def charge(self, what: str, cost: Cost) -> None: ...
    def reserve(self, bounds: Sequence[Cost]) -> tuple[int, Cost]: ...
    def fraction(self) -> float: ...


State = Any  # JSON-able; whatever a part must remember lives here and nowhere else


@dataclass(frozen=True)
class Context:
    """What a part may use. ``bound`` gives the most that one more group can cost from here to the update:
    (prompt tokens, responses, most tokens each, whether they must be sampled)."""

    engine: Engine
    key: Key
    ledger: Ledger
    bound: Callable[[int, int, int, bool], Cost]
    step: int = 0
    knobs: Mapping[str, float] = field(default_factory=dict)
    stores: Mapping[str, Sequence[Group]] = field(default_factory=dict)
    dropped: list[Group] = field(default_factory=list)  # filters put here what they take out: it is still recorded
    reserved: list[tuple[int, int, Cost]] = field(default_factory=list)  # groups asked for, groups that fit, charge

    def reserve(self, bounds: Sequence[Cost]) -> int:
        """How many of these groups fit the budget; they are charged at once, the difference comes back later."""
        fitting, total = self.ledger.reserve(bounds)
        self.reserved.append((len(bounds), fitting, total))
        return fitting

    def at(self, name: int | str) -> Context:
        return replace(self, key=self.key / name)


@dataclass(frozen=True)
class Part:
    """A function on groups with state, and what it asks of and gives to its neighbours.

    ``needs`` and ``gives``: "prompts", "responses", "scores", "advantage", "note:<name>", "head:<name>",
    "policy:<name>", "demonstrations", "pairs", "verifier". ``spends``: units of the budget it uses up.
    """

    name: str
    run: Callable[[Context, list[Group], State], tuple[list[Group], State]]
    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    spends: frozenset[str] = frozenset()
    sizes: Mapping[str, int] = field(default_factory=dict)  # for the resolved table: prompts, samples, tokens

    def __call__(self, ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        return self.run(ctx, groups, state)


def chain(*parts: Part) -> Part:
    """The parts in order, as one; their states side by side."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        states = state or [None] * len(parts)
        after = []
        for part, before in zip(parts, states, strict=True):
            groups, now = part(ctx, groups, before)
            after.append(now)
        return groups, after if any(s is not None for s in after) else None

    gives: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    for part in parts:
        needs, gives = needs | (part.needs - gives), gives | part.gives
    return Part(
        name=" > ".join(p.name for p in parts),
        run=run,
        needs=needs,
        gives=gives,
        spends=frozenset().union(*(p.spends for p in parts)),
        sizes={k: v for p in parts for k, v in p.sizes.items()},
    )


def lift(name: str, f: Callable[[Group], Group], needs: Sequence[str] = (), gives: Sequence[str] = ()) -> Part:
    """A part without state from a pure function on one group."""
    return Part(name, lambda ctx, groups, state: ([f(g) for g in groups], state), frozenset(needs), frozenset(gives))
