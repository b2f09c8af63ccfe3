"""The data that flows through Equipoise: frozen records with shapes and units on every field.

    prompts -> responses -> scores -> credit -> objective -> gradient -> update

Letters for shapes: P prompt tokens, n response tokens, N responses of a group, T trained tokens of a (micro-)batch,
R its responses, G its groups, K columns of a head, V vocabulary. Records hold numpy arrays (they are what is
stored); :class:`Batch` and :class:`Outputs` hold torch tensors (they are what is differentiated). This module
imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}, the ecosystem's chat turn
Stop = Literal["eos", "length", "sequence", "error"]
Status = Literal["right", "wrong", "unparsed", "timeout", "error"]
Scope = Literal["response", "group", "batch"]
Level = Literal["token", "response", "group"]
Split = Literal["train", "validation", "test"]

FAILED: frozenset[str] = frozenset({"timeout", "error"})  # statuses that are no verdict on the response


@dataclass(frozen=True)
class Prompt:
    """What a response answers. Exactly one of ``messages`` and ``text`` is given; the engine fills ``ids``."""

    id: str  # stable name, unique within a task
    messages: tuple[Message, ...] = ()
    text: str | None = None
    answer: Any = None  # what the verifier compares with
    meta: Mapping[str, Any] = field(default_factory=dict)  # the data's other columns, difficulty knobs
    ids: tuple[int, ...] | None = None  # [P] template applied, generation prompt included


@dataclass(frozen=True)
class Response:
    """What a policy, a person or an environment said after a prompt. Sampled ids are the record."""

    ids: NDArray[np.int64]  # [n]
    logprobs: NDArray[np.float32] | None  # [n] nats under the distribution that sampled it; None if not sampled
    trained: NDArray[np.bool_]  # [n] tokens that carry a loss; at least the policy's own
    segment: NDArray[np.int32]  # [n] turn or step
    text: str  # decoded for verifiers and readers, special tokens left out
    temperature: float = 1.0
    origin: str = "policy"  # "policy", "demonstration", "pair", or the name of a snapshot
    version: int = 0  # optimiser steps taken by the policy that sampled it
    stop: Stop = "eos"
    key: str = ""  # the sampling key's path


@dataclass(frozen=True)
class Score:
    """A signal's verdict on one response. ``value``: higher is better.

    ``unparsed`` counts as wrong. ``timeout`` and ``error`` are failures of the verifier: they leave the group's
    statistics and the gradient, and stay charged.
    """

    value: float
    status: Status = "right"
    steps: NDArray[np.float32] | None = None  # [n] credit placed on tokens
    parts: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None  # canonical form of the answer found, for majority votes
    message: str = ""  # why a verifier failed


@dataclass(frozen=True)
class Note:
    """Numbers that a part knows about a group. token: one [n] per response; response: one [N]; group: one [1].

    A response note may have columns, [N, K]; those are not recorded with the rollouts."""

    level: Level
    values: tuple[NDArray[np.floating], ...]


@dataclass(frozen=True)
class Group:
    """Responses that are compared with each other: one demonstration, a pair (preferred first), N rollouts."""

    prompt: Prompt
    responses: tuple[Response, ...]
    scores: tuple[Score, ...] = ()
    notes: Mapping[str, Note] = field(default_factory=dict)


@dataclass(frozen=True)
class Totals:
    """Denominators of one stream over one optimiser step and all ranks, fixed before the gradient."""

    tokens: int  # trained tokens
    responses: int  # responses with at least one trained token
    groups: int  # groups with at least one such response
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What an objective sees: ragged and flat, never padded. Any subset of a step's groups, with the step's totals."""

    response: Tensor  # [T] long: which response of this batch a token belongs to, ascending
    group: Tensor  # [R] long: which group of this batch a response belongs to, ascending
    advantage: Tensor  # [T]
    behaviour: Tensor  # [T] log-probs recorded by the sampler; NaN where there are none
    old: Tensor | None  # [T] the learner's log-probs when the update began; None: equal to the current ones
    reward: Tensor  # [R]
    temperature: Tensor  # [R]
    lengths: Tensor  # [R] float: trained tokens of each response, at least 1
    groups: int  # G
    notes: Mapping[str, Tensor]  # token notes [T], response notes [R] or [R, K], group notes [G]
    totals: Totals

    def per_response(self, x: Tensor) -> Tensor:
        """Sum ``x [T]`` over each response: [R]."""
        return x.new_zeros(len(self.group)).index_add(0, self.response, x)

    def per_group(self, x: Tensor) -> Tensor:
        """Sum ``x [R]`` over each group: [G]."""
        return x.new_zeros(self.groups).index_add(0, self.group, x)


@dataclass(frozen=True)
class Outputs:
    """What the policy computes on a batch; differentiable."""

    logp: Tensor  # [T] nats at the response's temperature
    heads: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [T, K], read before the token
    reduced: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [T], e.g. "entropy" in nats


@dataclass(frozen=True)
class Loss:
    """``per_group [G]`` is already divided by its denominator, so a step's loss is the plain sum over groups.

    ``metrics``: name -> (sum, count); reported as the ratio of the sums over the whole step.
    """

    per_group: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor | float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A function of the policy's outputs, with what it needs and how it is normalised.

    ``needs``: "logp:<policy>" and "logsumexp:<policy>" (notes with that policy's outputs), "head:<name>", "entropy",
    "logsumexp" (of the logits over the temperature, not normalised), "advantage", "note:<name>". ``silent``: without
    advantage it has no gradient, so such groups need not be run. ``totals``: name -> what a group adds to
    ``Totals.extra``, for denominators of its own (the tokens of right responses, say).
    """

    loss: Callable[[Outputs, Batch], Loss]
    formula: str
    denominator: str
    needs: frozenset[str] = frozenset()
    scope: Scope = "response"
    silent: bool = False
    totals: Mapping[str, Callable[[Group], float]] = field(default_factory=dict)
    frozen: bool = False  # only heads learn: the model is read without gradient

    def __add__(self, other: Objective) -> Objective:
        if other.loss is _nothing:
            return self
        return Objective(
            loss=lambda out, batch: _add(self.loss(out, batch), other.loss(out, batch)),
            formula=f"{self.formula} + {other.formula}",
            denominator=f"{self.denominator} | {other.denominator}",
            needs=self.needs | other.needs,
            scope=max(self.scope, other.scope, key=("response", "group", "batch").index),
            silent=self.silent and other.silent,
            totals={**self.totals, **other.totals},
            frozen=self.frozen and other.frozen,
        )

    def __rmul__(self, weight: float) -> Objective:
        """``weight * objective``. A weight of 0 leaves nothing: no gradient, no needs."""
        if weight == 0:
            return Objective(_nothing, "0", "-", silent=True)
        return Objective(
            loss=lambda out, batch: _scale(weight, self.loss(out, batch)),
            formula=f"{weight:g} * ({self.formula})",
            denominator=self.denominator,
            needs=self.needs,
            scope=self.scope,
            silent=self.silent,
            totals=self.totals,
            frozen=self.frozen,
        )


def _add(a: Loss, b: Loss) -> Loss:
    return Loss(a.per_group + b.per_group, {**a.metrics, **b.metrics})


def _scale(weight: float, loss: Loss) -> Loss:
    return Loss(weight * loss.per_group, loss.metrics)


def _nothing(out: Outputs, batch: Batch) -> Loss:
    return Loss(out.logp.new_zeros(batch.groups))


@dataclass(frozen=True)
class Adjust:
    """A change of the logits at every decoding step, before the temperature: a decoder of kind ``logits``.

    ``run``: logits [B, V] in nats and heads (name -> [B, K], read at the same place) -> logits [B, V]. ``needs``:
    "head:<name>". ``name`` tells one from another in the record: it becomes the responses' origin.
    """

    name: str
    run: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    needs: frozenset[str] = frozenset()


def columns(head: str, vocabulary: int) -> int:
    """Columns of a head by its name: "value" 1, "x[8]" 8, "x[V]" one for each entry of the vocabulary. Of the last, an
    objective is given the column of the token that came next, [T, 1], and an adjustment all of them."""
    width = _inside(head).split(",")[0]
    return vocabulary if width == "V" else int(width)


def projects(head: str) -> bool:
    """Whether a head is a projection, "x[8, random]": it starts at random, because at 0 it would say nothing of the
    hidden state and give it no gradient. Other heads start at 0."""
    return _inside(head).endswith(", random")


def _inside(head: str) -> str:
    return head[head.index("[") + 1 : -1] if head.endswith("]") and "[" in head else "1"


@dataclass(frozen=True)
class Decoder:
    """How to sample. Training uses temperature only, because the policy that is trained is the one that sampled.

    Behaviour log-probs are recorded from what is drawn from, after ``adjust`` and temperature."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    stop: tuple[str, ...] = ()  # stop sequences, besides the model's end tokens
    adjust: Adjust | None = None


@dataclass(frozen=True)
class Cost:
    """What was spent. Additive. FLOPs: 2 per parameter and token forward, 6 with backward."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    flops: float = 0.0
    labels: Mapping[str, int] = field(default_factory=dict)  # kind -> count
    judge_calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        kinds = {k: self.labels.get(k, 0) + other.labels.get(k, 0) for k in {*self.labels, *other.labels}}
        return Cost(
            self.generated_tokens + other.generated_tokens,
            self.trained_tokens + other.trained_tokens,
            self.flops + other.flops,
            dict(sorted(kinds.items())),
            self.judge_calls + other.judge_calls,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + other.times(-1)

    def times(self, n: int) -> Cost:
        """``n`` such costs."""
        return Cost(
            self.generated_tokens * n,
            self.trained_tokens * n,
            self.flops * n,
            {k: v * n for k, v in self.labels.items()},
            self.judge_calls * n,
            self.seconds * n,
        )


@dataclass(frozen=True)
class ModelInfo:
    """What the rest of the system needs to know of a model."""

    name: str  # as the user named it
    revision: str | None
    parameters: int  # all
    trainable: int
    body: int  # parameters that multiply every token: no embedding table, no output head
    head: int  # parameters of the output head
    layers: int
    width: int  # attention width: heads x head size
    vocabulary: int
    context: int  # longest sequence, tokens
    eos: tuple[int, ...]  # ids that end a response
    dtype: str  # of the matmuls
    device: str
    recompute: bool = False  # activations are recomputed in the backward pass


Reply = str | tuple[Message, ...]  # one assistant turn, or every turn after the prompt


@dataclass(frozen=True)
class Again:
    """How a task is asked again: the user's words after an attempt, where {} is the question, and attempts in all."""

    say: str
    attempts: int = 2


@dataclass(frozen=True)
class Task:
    """Prompts, splits and verifier side by side. Splits are disjoint by hash of the normalised prompt.

    ``verify``: texts -> scores, one per (prompt, text). ``demonstrate``: a right reply. ``pair``: (preferred, other).
    ``steps``: the steps of a reply: first character, one past the last, whether it is right given those before it.
    """

    name: str  # as on the command line
    summary: str
    splits: Mapping[str, Sequence[Prompt]]  # "train", "validation", "test"
    max_new_tokens: int  # longest response sampled
    fingerprint: str  # of whatever defines the data
    verify: Callable[[Sequence[Prompt], Sequence[str]], list[Score]] | None = None
    demonstrate: Callable[[Prompt], Reply | None] | None = None
    pair: Callable[[Prompt], tuple[Reply, Reply] | None] | None = None
    steps: Callable[[Prompt, str], Sequence[tuple[int, int, bool]]] | None = None
    close: Callable[[], None] | None = None  # releases verifier processes
    again: Again | None = None  # evaluated over the attempts of a conversation


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float
