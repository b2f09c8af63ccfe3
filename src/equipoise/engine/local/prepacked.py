"""Products with few rows, on CPU, while a model decodes: weights arranged once.

A plain product of a few rows arranges the weights for the processor anew each time, which at 64 rows takes as long as
the arithmetic. While weights stay as they are it is enough to do it once, in the layout of the library that multiplies
fastest here; without one nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from equipoise.engine.local import products
from equipoise.engine.local.allocator import given_back

LEAST = 1 << 15  # numbers of a weight that is worth it
Step = Literal["none", "swish", "mul", "add"]  # after a product: nothing, silu of it, it times or plus another tensor


@dataclass(frozen=True)
class Packing:
    """A library's layout. ``patience``: products before weights are packed: as many as packing costs, or fewer where
    that is little, since most replies last. ``few``: a product of more rows is as fast with plain weights. ``rigid``:
    a layout is for one number of rows. ``serial``: the library packs in one thread. ``dtype``: of what is packed."""

    patience: int
    few: int
    rigid: bool
    serial: bool
    dtype: torch.dtype
    pack: Callable[[Tensor, int], Tensor]
    multiply: Callable[[Tensor, Packed, Step, Tensor | None], Tensor]


@dataclass(frozen=True)
class Packed:
    """Weights [N, K] as a library wants them for ``rows`` rows. ``shape``: a tensor of the plain ones' shape."""

    weight: Tensor
    shape: Tensor
    bias: Tensor | None  # [N]
    rows: int


def _mkl_pack(weight: Tensor, rows: int) -> Tensor:
    """MKL asks for twice a weight's memory and nine megabytes, and writes to half of it, so that memory is not the
    heap's."""
    found: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return found


def _mkl_multiply(x: Tensor, by: Packed, step: Step, other: Tensor | None) -> Tensor:
    return then(torch.ops.mkl._mkl_linear(x, by.weight, by.shape, by.bias, by.rows), step, other)


def _onednn_pack(weight: Tensor, rows: int) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return found


def _onednn_multiply(x: Tensor, by: Packed, step: Step, other: Tensor | None) -> Tensor:
    """The step is taken before the product is written."""
    multiply = torch.ops.mkldnn._linear_pointwise
    if step in ("mul", "add"):
        return cast(Tensor, multiply.binary(x, other, by.weight, by.bias, step))
    return cast(Tensor, multiply(x, by.weight, by.bias, step, [], ""))


def _low_multiply(x: Tensor, by: Packed, step: Step, other: Tensor | None) -> Tensor:
    """Only the product is of the packed type."""
    return then(_onednn_multiply(x.to(by.weight.dtype), by, "none", None).to(x.dtype), step, other)


def then(product: Tensor, step: Step, other: Tensor | None) -> Tensor:
    """In place. ``other``: of the product's shape, for the steps that take one."""
    if step == "none":
        return product
    if step == "swish":
        return nn.functional.silu(product, inplace=True)
    assert other is not None, step
    return product.mul_(other) if step == "mul" else product.add_(other)


MKL = Packing(32, 512, True, True, torch.float32, _mkl_pack, _mkl_multiply)
ONEDNN = Packing(1, 512, False, False, torch.float32, _onednn_pack, _onednn_multiply)
# Weights that are cast for each product take longer than the product, so these are packed at once.
LOW = Packing(0, 1 << 30, False, False, torch.bfloat16, _onednn_pack, _low_multiply)


def layout(device: torch.device, dtype: torch.dtype) -> Packing | None:
    """The layout for products of this type, the fastest there; None where plain weights are to be read."""
    if device.type != "cpu":
        return None
    if dtype == torch.bfloat16:
        return LOW if products.bfloat16() and not products.rounds() else None
    if dtype != torch.float32:
        return None
    if products.exact_by_onednn():
        return ONEDNN
    return MKL if torch._C.has_mkl and hasattr(torch.ops.mkl, "_mkl_linear") else None


class Product:
    """``x [..., K]`` -> [..., N] for weights [N, K]: one or several linear layers of the same input, side by side.
    ``packing``: that it may get."""

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], packing: Packing | None = None
    ) -> None:
        self.weights, self.biases, self.packing = [w.detach() for w in weights], list(biases), packing
        self.rows = self.times = 0
        self.packed: Packed | None = None

    def __call__(self, x: Tensor, step: Step = "none", other: Tensor | None = None) -> Tensor:
        """The product, and the step that follows it, which may be taken in place."""
        if self.packing is not None and self.packed is not None and self._fits(x.numel() // x.shape[-1]):
            return self.packing.multiply(x, self.packed, step, other)
        parts = [nn.functional.linear(x, w, b) for w, b in zip(self.weights, self.biases, strict=True)]
        return then(torch.cat(parts, -1) if len(parts) > 1 else parts[0], step, other)

    def _fits(self, rows: int) -> bool:
        """Whether it is packed, for so many rows."""
        if self.packing is None or self.packed is None:
            return False
        return rows == self.packed.rows or not self.packing.rigid

    def due(self, rows: int) -> bool:
        """Told before each product; whether to pack for it. Where a layout is for one number of rows, that has to
        last."""
        if self.packing is None:
            return False
        lasts = rows == self.rows or not self.packing.rigid
        self.times, self.rows = self.times + 1 if lasts else 0, rows
        return not self._fits(rows) and rows <= self.packing.few and self.times >= self.packing.patience

    def pack(self, rows: int) -> None:
        assert self.packing is not None
        dtype = self.packing.dtype
        self.packed = None  # its memory is for the new ones
        weight = self.weights[0] if len(self.weights) == 1 else torch.cat(self.weights)
        bias = None
        if any(b is not None for b in self.biases):
            whole = [w.new_zeros(len(w)) if b is None else b for w, b in zip(self.weights, self.biases, strict=True)]
            bias = torch.cat([b.detach() for b in whole]).to(dtype)
        shape = weight[:1, :1].expand(weight.shape)
        self.packed = Packed(self.packing.pack(weight.to(dtype), rows), shape, bias, rows)


def pack(several: Sequence[Product], rows: int) -> None:
    """Before a product of each with so many rows: pack those that are due, in all threads."""
    due = [p for p in several if p.due(rows)]
    if not due:
        return
    if due[0].packing is not None and due[0].packing.serial:
        with given_back(), ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(lambda p: p.pack(rows), due))
    else:
        for product in due:
            product.pack(rows)


@contextmanager
def prepacked(layers: Sequence[nn.Module], packing: Packing | None) -> Iterator[None]:
    """Within, these linear layers (others are left alone) are packed; their weights must not change."""
    if packing is None:
        yield
        return
    large = [m for m in layers if type(m) is nn.Linear and m.weight.numel() >= LEAST]
    for layer in large:
        layer.forward = _forward(Product([layer.weight], [layer.bias], packing))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in large:
            del layer.forward


def _forward(product: Product) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        pack([product], x.numel() // x.shape[-1])
        return product(x)

    return forward
