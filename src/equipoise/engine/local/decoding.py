"""Rows in flight, and what a model remembers of them: keys and values, its own state, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from equipoise.engine.local.cache import Memory, rows_of
from equipoise.engine.local.fused import Seen, Sharing
from equipoise.engine.local.network import Network


def begin(network: Network, prompts: Sequence[Sequence[int]], fan: NDArray[np.int64]) -> Decoding:
    """Read ``prompts`` once each; row k of the result goes on from prompt ``fan[k]``. [B]"""
    kinds: dict[str, Callable[..., Decoding]] = {
        "fused": Fused if network.stack else Cached,
        "columns": Cached,
        "own": Grown,
        "none": Recomputed,
    }
    return kinds[network.memory](network, prompts, fan)


class Decoding(Protocol):
    """Rows in flight. ``last [B, D]``: what ``network.logits`` and heads read for each row's next token."""

    last: Tensor

    def feed(self, tokens: NDArray[np.int64]) -> None:
        """Append one token to each row."""

    def select(self, rows: NDArray[np.int64]) -> None:
        """Keep these rows, in this order; one may be kept several times."""

    def join(self, other: Decoding) -> None:
        """Append the rows of ``other``."""


class Cached:
    """Rows with a cache of keys and values, aligned on the right; a column holds a row's token or nothing."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], fan: NDArray[np.int64]) -> None:
        self.network = network
        self.memory = Memory()
        length = max(map(len, prompts))
        ids = np.zeros((len(prompts), length), dtype=np.int64)
        key = np.full_like(ids, -1)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = prompt
            key[row, length - len(prompt) :] = np.arange(len(prompt))
        self.key = rows_of(key, network.device)  # [B, columns] position of the token in a column, or -1
        visible = (self.key[:, None, :] >= 0) & (self.key[:, None, :] <= self.key[:, :, None])
        visible |= torch.eye(length, dtype=torch.bool, device=network.device)  # nothing must see something
        query = self.key.clamp(min=0)
        hidden = network.run(rows_of(ids, network.device), network.masks(visible, query, self.key), query, self.memory)
        self.last = hidden[:, -1]
        self.select(fan)

    def feed(self, tokens: NDArray[np.int64]) -> None:
        position = self.key[:, -1:] + 1
        self.key = torch.cat([self.key, position], 1)
        masks = self.network.masks((self.key >= 0)[:, None, :], position, self.key)
        hidden = self.network.run(rows_of(tokens, self.network.device)[:, None], masks, position, self.memory)
        self.last = hidden[:, -1]

    def select(self, rows: NDArray[np.int64]) -> None:
        index = rows_of(rows, self.network.device)
        self.key, self.last = self.key[index], self.last[index]
        start = int((self.key >= 0).any(0).int().argmax()) if len(rows) else 0
        self.key = self.key[:, start:]
        self.memory.select(index, start)

    def join(self, other: Decoding) -> None:
        assert isinstance(other, Cached)
        self.key, self.last = _below(self.key, other.key, -1), torch.cat([self.last, other.last])
        self.memory.join(other.memory, len(other.last))


class Fused:
    """Rows with a cache of their own tokens, and prompts' caches that rows share; tokens go through our own stack."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], fan: NDArray[np.int64]) -> None:
        assert network.stack is not None
        read = Cached(network, prompts, np.arange(len(prompts)))
        self.network, self.stack = network, network.stack
        self.prompts, self.prompt_key = read.memory, read.key  # a row for each prompt
        self.prompts.widen()
        self.memory = Memory()
        device = network.device
        self.place = torch.tensor([len(prompts[k]) for k in fan], device=device)  # of each row's next token
        self.key = torch.zeros(len(fan), 0, dtype=torch.bool, device=device)  # [B, columns] whether it holds a token
        self.last = read.last[rows_of(fan, device)]
        self._share(fan)

    def _share(self, fan: NDArray[np.int64]) -> None:
        """Row k goes on from prompt ``fan[k]``; prompts that none goes on from are forgotten when they are half."""
        kept = np.unique(fan)
        if 2 * len(kept) <= len(self.prompt_key):
            index = rows_of(kept, self.network.device)
            start = int((self.prompt_key[index] >= 0).any(0).int().argmax()) if len(kept) else 0
            self.prompts.select(index, start)
            self.prompt_key, fan = self.prompt_key[index, start:], np.searchsorted(kept, fan)
        self.fan = fan
        self.sharing = Sharing.of(fan, len(self.prompt_key), self.network.device)
        self.before = Seen(self.prompts, self.prompt_key >= 0)

    def feed(self, tokens: NDArray[np.int64]) -> None:
        ids = rows_of(tokens, self.network.device)
        self.key = torch.nn.functional.pad(self.key, (0, 1), value=True)
        own = Seen(self.memory, self.key)
        with torch.autocast("cpu", enabled=False):  # the stack casts what its products read, and nothing else
            self.last = self.stack.step(ids, self.place[:, None], self.before, self.sharing, own)
        self.place = self.place + 1

    def select(self, rows: NDArray[np.int64]) -> None:
        index = rows_of(rows, self.network.device)
        self.last, self.place, self.key = self.last[index], self.place[index], self.key[index]
        start = int(self.key.any(0).int().argmax()) if len(rows) and self.key.shape[1] else 0
        self.key = self.key[:, start:]
        self.memory.select(index, start)
        self._share(self.fan[rows])

    def join(self, other: Decoding) -> None:
        assert isinstance(other, Fused)
        self.key, self.last = _below(self.key, other.key, False), torch.cat([self.last, other.last])
        self.place = torch.cat([self.place, other.place])
        self.memory.join(other.memory, len(other.fan))
        before, self.prompt_key = len(self.prompt_key), _below(self.prompt_key, other.prompt_key, -1)
        self.prompts.join(other.prompts, len(other.prompt_key))
        self._share(np.concatenate([self.fan, other.fan + before]))


class Grown:
    """Rows with the model's own cache (recurrent states), in lots of prompts of equal length: nothing is padded."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], fan: NDArray[np.int64]) -> None:
        self.network = network
        found: list[Tensor] = []
        rows = 0
        self.lots: list[tuple[Any, NDArray[np.int64]]] = []  # a cache, and the places of its rows
        for length in sorted(set(map(len, prompts))):
            own = [k for k, prompt in enumerate(prompts) if len(prompt) == length]
            cache = DynamicCache(config=network.model.config)
            hidden = network.run(rows_of([prompts[k] for k in own], network.device), cache=cache)
            found.append(hidden[:, -1])
            self.lots.append((cache, np.arange(rows, rows + len(own))))
            rows += len(own)
        self.last = torch.cat(found)
        order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
        self.select(np.argsort(order)[fan])

    def feed(self, tokens: NDArray[np.int64]) -> None:
        self.last = self.last.clone()
        for cache, places in self.lots:
            hidden = self.network.run(rows_of(tokens[places], self.network.device)[:, None], cache=cache)
            self.last[rows_of(places, self.network.device)] = hidden[:, -1]

    def select(self, rows: NDArray[np.int64]) -> None:
        lots = []
        for cache, places in self.lots:
            kept = np.flatnonzero(np.isin(rows, places))
            if len(kept):
                within = np.searchsorted(places, rows[kept])
                cache.reorder_cache(rows_of(within, self.network.device))
                lots.append((cache, kept))
        self.lots, self.last = lots, self.last[rows_of(rows, self.network.device)]

    def join(self, other: Decoding) -> None:
        assert isinstance(other, Grown)
        self.lots += [(cache, places + len(self.last)) for cache, places in other.lots]
        self.last = torch.cat([self.last, other.last])


class Recomputed:
    """Rows without a cache, for models whose state cannot be fanned out: every token runs its whole row again."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], fan: NDArray[np.int64]) -> None:
        self.network = network
        self.rows = [list(prompts[k]) for k in fan]
        self.last = self._run([list(p) for p in prompts])[rows_of(fan, network.device)]

    def _run(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for k, row in enumerate(rows):
            ids[k, : len(row)] = row
        hidden = self.network.run(rows_of(ids, self.network.device))
        return hidden[torch.arange(len(rows)), torch.tensor([len(r) - 1 for r in rows])]

    def feed(self, tokens: NDArray[np.int64]) -> None:
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(int(token))
        self.last = self._run(self.rows)

    def select(self, rows: NDArray[np.int64]) -> None:
        self.rows = [list(self.rows[k]) for k in rows]
        self.last = self.last[rows_of(rows, self.network.device)]

    def join(self, other: Decoding) -> None:
        assert isinstance(other, Recomputed)
        self.rows += other.rows
        self.last = torch.cat([self.last, other.last])


def _below(first: Tensor, second: Tensor, value: float) -> Tensor:
    """[B, columns] and [B', columns'] -> one table, aligned on the last column, ``value`` where there was none."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([torch.nn.functional.pad(t, (width - t.shape[1], 0), value=value) for t in (first, second)])
