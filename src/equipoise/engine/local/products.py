"""Float32 products on CPU: by MKL or by oneDNN, exact or of operands rounded to bfloat16.

torch multiplies by MKL, and where its precision setting is "medium" by oneDNN, if the processor has AVX-512. On one
with matrix units for bfloat16 (AMX) oneDNN then rounds what a product reads, and nothing else: tensors, weights and
sums stay float32. On others it multiplies exactly, and on AMD's faster than MKL, which does not know them.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def by_onednn(on: bool) -> Iterator[None]:
    """Around forward and backward passes: whether oneDNN multiplies. The setting is the process's."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


@functools.cache
def bfloat16() -> bool:
    """Whether the processor has products of bfloat16 (AVX-512 at least), and this build of torch uses them."""
    return bool(torch._C._has_mkldnn) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def rounds() -> bool:
    """Whether oneDNN rounds what float32 products read. It says so nowhere, so it is given a product."""
    if not bfloat16():
        return False
    x = torch.linspace(1, 2, 64 * 128, dtype=torch.float32, device="cpu").view(64, 128)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), by_onednn(True):
        found = x @ x.T
    low = x.bfloat16().double()
    exact, rounded = ((found - y @ y.T).abs().max() for y in (x.double(), low))
    return bool(rounded < exact)


@functools.cache
def exact_by_onednn() -> bool:
    """Whether exact products are oneDNN's: where it computes them and was measured to be faster."""
    return bfloat16() and not rounds() and vendor() == "AuthenticAMD"


@functools.cache
def vendor() -> str:
    """Of the processor, as it calls itself; "" where it does not say."""
    listed = Path("/proc/cpuinfo")
    if not listed.exists():  # Windows has it at the end of the processor's name
        return platform.processor().rpartition(" ")[2]
    found = (line.partition(":")[2] for line in listed.read_text().splitlines() if line.startswith("vendor_id"))
    return next(found, "").strip()


def kind(device: str, dtype: str) -> str:
    """Who multiplies, and of what: a run does not go on bit by bit where this differs."""
    if device != "cpu":
        return "of the device"
    if dtype == "bfloat16":
        return "rounded" if rounds() else "cast"
    return "oneDNN" if dtype == "float32" and exact_by_onednn() else "BLAS"
