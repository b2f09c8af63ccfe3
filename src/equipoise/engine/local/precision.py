"""Float32 products on CPU that round what they read to bfloat16, and keep their sums in float32.

Tensors, weights and gradients stay float32, so nothing but the operands of a product is ever rounded: twice as close to
float32 as casting tensors, whose results are rounded too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def supported(device: torch.device) -> bool:
    """Whether the processor has products of bfloat16 (AVX-512 at least), and this build of torch uses them."""
    return device.type == "cpu" and bool(torch._C._has_mkldnn) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextlib.contextmanager
def rounding(on: bool) -> Iterator[None]:
    """Around forward and backward passes: whether their products round. The setting is the process's."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)
