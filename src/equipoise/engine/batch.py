"""Groups flattened into what an objective sees. Shared by every engine; no padding above this line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.keys import Key, uniforms
from equipoise.types import Batch, Decoder, Group, Totals


def count(groups: Sequence[Group], extra: Mapping[str, Callable[[Group], float]] | None = None) -> Totals:
    """The denominators of a step's groups. A response without trained tokens does not count. ``extra``: an objective's
    own, name -> what a group adds to it."""
    per_group = [[int(r.trained.sum()) for r in g.responses] for g in groups]
    return Totals(
        tokens=sum(map(sum, per_group)),
        responses=sum(n > 0 for lengths in per_group for n in lengths),
        groups=sum(any(lengths) for lengths in per_group),
        extra={name: float(sum(map(share, groups))) for name, share in (extra or {}).items()},
    )


def origin(policy: str, decoder: Decoder) -> str:
    """What a sampled response says of who made it: "policy", a snapshot's name, and how the logits were adjusted."""
    who = "policy" if policy == "current" else policy
    return who if decoder.adjust is None else f"{who}, {decoder.adjust.name}"


def flatten(groups: Sequence[Group], totals: Totals, device: torch.device, dtype: torch.dtype) -> Batch:
    """The trained tokens of ``groups``, in order, as a :class:`Batch`.

    The note "advantage" (token or response level; absent: 0) becomes ``advantage``, and the token note "old"
    becomes ``old``. A note must be on every group or on none.
    """
    kept = [[i for i, r in enumerate(g.responses) if r.trained.any()] for g in groups]
    lengths = [int(g.responses[i].trained.sum()) for g, rows in zip(groups, kept, strict=True) for i in rows]
    group_of = [k for k, rows in enumerate(kept) for _ in rows]

    def tensor(values: Sequence[float] | NDArray[np.floating]) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float64), device=device, dtype=dtype)

    def tokens(read: Callable[[Group, int], NDArray[np.floating]]) -> Tensor:
        parts = [read(g, i)[g.responses[i].trained] for g, rows in zip(groups, kept, strict=True) for i in rows]
        return tensor(np.concatenate(parts) if parts else np.zeros(0))

    notes = {name: _note(name, groups, kept, tokens, tensor) for name in (groups[0].notes if groups else ())}
    response = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))
    advantage = notes.pop("advantage", None)
    if advantage is None:
        advantage = tensor(np.zeros(sum(lengths)))
    elif len(advantage) == len(lengths) and groups[0].notes["advantage"].level == "response":
        advantage = advantage[response.to(device)]
    return Batch(
        response=response.to(device),
        group=torch.tensor(group_of, dtype=torch.long, device=device),
        advantage=advantage,
        behaviour=tokens(_behaviour),
        old=notes.pop("old", None),
        reward=tensor(
            [g.scores[i].value if g.scores else 0.0 for g, rows in zip(groups, kept, strict=True) for i in rows]
        ),
        temperature=tensor([g.responses[i].temperature for g, rows in zip(groups, kept, strict=True) for i in rows]),
        lengths=tensor(lengths),
        groups=len(groups),
        notes=notes,
        totals=totals,
    )


def _behaviour(group: Group, i: int) -> NDArray[np.floating]:
    response = group.responses[i]
    if response.logprobs is None:
        return np.full(len(response.ids), np.nan)
    return response.logprobs


def _note(
    name: str,
    groups: Sequence[Group],
    kept: Sequence[Sequence[int]],
    tokens: Callable[[Callable[[Group, int], NDArray[np.floating]]], Tensor],
    tensor: Callable[[Sequence[float] | NDArray[np.floating]], Tensor],
) -> Tensor:
    level = groups[0].notes[name].level
    if level == "token":
        return tokens(lambda g, i: g.notes[name].values[i])
    if level == "group":
        return tensor([float(g.notes[name].values[0][0]) for g in groups])
    return tensor([g.notes[name].values[0][i] for g, rows in zip(groups, kept, strict=True) for i in rows])


REDUCTIONS = ("entropy", "logsumexp")  # of a token's logits over the vocabulary; an objective's needs name them


def reductions(needs: Sequence[str] | frozenset[str]) -> list[str]:
    """Those of ``needs`` that are reductions over the vocabulary."""
    return [name for name in REDUCTIONS if name in needs]


def projection(width: int, columns: int, name: str, seed: int = 0) -> Tensor:
    """Where a projection of hidden states [D] starts: [D + 1, K] float64, the last row its bias, uniform within
    1 / sqrt(D) of 0; a function of name and seed."""
    key = Key((seed,)) / "head" / name
    u = uniforms(np.full((width + 1) * columns, key.word, dtype=np.uint64), np.arange((width + 1) * columns))
    return torch.from_numpy((2 * u - 1) / np.sqrt(width)).reshape(width + 1, columns)
