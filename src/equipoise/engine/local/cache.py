"""Keys and values of decoding rows: allocated ahead, aligned on the right, rows taken out and put in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

ROOM = 64  # columns allocated ahead


class Columns(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One layer: keys and values [B, heads, columns, D], of which the first ``used`` columns are filled."""

    is_sliding = False  # windows are in the masks, so every layer keeps every column

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = _empty(key_states, key_states.shape[-2] + ROOM)
        self.values = _empty(value_states, key_states.shape[-2] + ROOM)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns; returns all of them. Both in the values' type: rotation leaves keys in a wider one."""
        key_states = key_states.to(value_states.dtype)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys, self.values = self._moved(self.keys, 0, end), self._moved(self.values, 0, end)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _moved(self, states: Tensor, start: int, columns: int) -> Tensor:
        new = _empty(states, columns + ROOM)
        new[:, :, : self.used - start] = states[:, :, start : self.used]
        return new

    @property
    def columns(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the columns that are filled."""
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def select(self, rows: Tensor, start: int) -> None:
        """Keep ``rows`` (one may be kept several times), and drop the columns before ``start``."""
        self.keys = self._moved(self.keys[rows], start, self.used - start)
        self.values = self._moved(self.values[rows], start, self.used - start)
        self.used -= start

    def join(self, other: Columns) -> None:
        """Append the rows of ``other``, both aligned on their last column."""
        used = max(self.used, other.used)
        self.keys, self.values = _joined(self, other, used, "keys"), _joined(self, other, used, "values")
        self.used = used

    def without_columns(self, rows: int) -> Columns:
        """As many rows with no column."""
        empty = Columns()
        empty.keys, empty.values = (t.new_empty(rows, t.shape[1], 0, t.shape[3]) for t in (self.keys, self.values))
        empty.is_initialized = True
        return empty

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


def _empty(like: Tensor, columns: int) -> Tensor:
    return torch.empty(*like.shape[:2], columns, like.shape[3], dtype=like.dtype, device=like.device)


def _joined(a: Columns, b: Columns, used: int, name: str) -> Tensor:
    first, second = getattr(a, name), getattr(b, name)
    new = torch.zeros(
        len(first) + len(second), first.shape[1], used + ROOM, first.shape[3], dtype=first.dtype, device=first.device
    )
    new[: len(first), :, used - a.used : used] = first[:, :, : a.used]
    new[len(first) :, :, used - b.used : used] = second[:, :, : b.used]
    return new


class Memory(Cache):  # type: ignore[misc]  # transformers is untyped
    """The cache of all layers."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=Columns)

    def select(self, rows: Tensor, start: int = 0) -> None:
        for layer in self.layers:
            layer.select(rows, start)

    def join(self, other: Memory, rows: int) -> None:
        """Append ``rows`` rows, those of ``other``, which may hold no column yet."""
        for k, mine in enumerate(self.layers):
            mine.join(other.layers[k] if other.layers else mine.without_columns(rows))

    def widen(self) -> None:
        """Keep keys and values in float32 at least."""
        for layer in self.layers:
            exact = torch.promote_types(layer.keys.dtype, torch.float32)
            layer.keys, layer.values = layer.keys.to(exact), layer.values.to(exact)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A column for every row; all of them, as for ``Columns.update``."""
        while len(self.layers) <= layer:
            self.layers.append(Columns())
        found: tuple[Tensor, Tensor] = self.layers[layer].update(keys, values)
        return found


def rows_of(rows: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(rows, dtype=torch.long, device=device)
