"""Products with few rows, on CPU, while a model decodes: weights arranged once.

A plain product of a few rows arranges the weights for the processor anew each time, which at 64 rows takes as long as
the arithmetic. While weights stay as they are it is enough to do it once, with MKL's packed products; without MKL
nothing changes. MKL asks for twice a weight's memory and nine megabytes, and writes to half of it, so that memory is
not the heap's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.engine.local.allocator import given_back

FEW = 512  # rows; a product of more is as fast with plain weights
LEAST = 1 << 15  # numbers of a weight that is worth it
PATIENCE = 32  # products with the same number of rows before weights are packed: what packing costs


def supported(device: torch.device) -> bool:
    """Whether this build of torch has packed products there, of float32."""
    return device.type == "cpu" and bool(torch._C.has_mkl) and hasattr(torch.ops.mkl, "_mkl_linear")


class Product:
    """``x [..., K]`` -> [..., N] for weights [N, K]: one or several linear layers of the same input, side by side.
    ``packs``: it may be packed."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], packs: bool = True) -> None:
        self.weights, self.biases, self.packs = [w.detach() for w in weights], list(biases), packs
        self.rows = self.packed_for = self.times = 0
        self.packed: Any = None
        self.bias: Tensor | None = None
        self.weight = self.weights[0]

    def __call__(self, x: Tensor) -> Tensor:
        found = self._packed(x)
        if found is not None:
            return found
        parts = self._plain(x)
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """Each layer's own result."""
        found = self._packed(x)
        return self._plain(x) if found is None else torch.split(found, [len(w) for w in self.weights], -1)

    def _packed(self, x: Tensor) -> Tensor | None:
        rows = x.numel() // x.shape[-1]
        if self.packed is None or rows != self.packed_for:
            return None
        found: Tensor = torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, rows)
        return found

    def _plain(self, x: Tensor) -> list[Tensor]:
        return [nn.functional.linear(x, w, b) for w, b in zip(self.weights, self.biases, strict=True)]

    def due(self, rows: int) -> bool:
        """Told before each product; whether to pack for it. The layout is for one number of rows, so that has to
        last."""
        self.times = self.times + 1 if rows == self.rows else 0
        self.rows = rows
        packed = self.packed is not None and rows == self.packed_for
        return self.packs and not packed and rows <= FEW and self.times >= PATIENCE

    def pack(self, rows: int) -> None:
        self.packed, self.packed_for = None, rows
        weight = self.weights[0] if len(self.weights) == 1 else torch.cat(self.weights)
        if any(b is not None for b in self.biases):
            whole = [w.new_zeros(len(w)) if b is None else b for w, b in zip(self.weights, self.biases, strict=True)]
            self.bias = torch.cat([b.detach() for b in whole])
        self.weight = weight[:1, :1].expand(weight.shape)  # only its shape is read
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)


def pack(products: Sequence[Product], rows: int) -> None:
    """Before a product of each with so many rows: pack those that are due, in all threads, since packing uses one."""
    due = [p for p in products if p.due(rows)]
    if due:
        with given_back(), ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(lambda p: p.pack(rows), due))


@contextmanager
def prepacked(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, these linear layers (others are left alone) are packed; their weights must not change."""
    large = [m for m in layers if type(m) is nn.Linear and m.weight.numel() >= LEAST]
    for layer in large:
        layer.forward = _packing(Product([layer.weight], [layer.bias]))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in large:
            del layer.forward


def _packing(product: Product) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        pack([product], x.numel() // x.shape[-1])
        return product(x)

    return forward
