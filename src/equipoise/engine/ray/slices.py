"""Rows of tensors: what of a model lies on one rank, how it crosses processes, and how it is put into a file.

A rank's rows of a tensor are one range of bytes of a safetensors file, so a state is written and read rank by rank, and
a file says nothing of how many ranks there were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from equipoise.errors import RecordError

_DTYPES = {"float32": "F32", "float64": "F64"}
_NUMPY = {name: np.dtype(dtype) for dtype, name in _DTYPES.items()}


@dataclass(frozen=True)
class Slice:
    """Rows of a tensor from ``start`` on; all of it where it has no first dimension."""

    shape: tuple[int, ...]  # of the whole tensor
    start: int
    rows: NDArray[Any]


Slices = dict[str, Slice]


def span(shape: tuple[int, ...], rank: int, ranks: int) -> range:
    """The rows of a tensor that lie on a rank: equal parts, as FSDP2 cuts them, the last ones short or empty."""
    size = -(-shape[0] // ranks)
    return range(min(rank * size, shape[0]), min((rank + 1) * size, shape[0]))


def tensors(slices: Mapping[str, Slice]) -> dict[str, Tensor]:
    """The rows as tensors of their own."""
    return {name: torch.tensor(s.rows) for name, s in slices.items()}


def fill(whole: Mapping[str, Tensor], slices: Mapping[str, Slice]) -> int:
    """Copy rows into whole tensors; returns their bytes."""
    with torch.no_grad():
        for name, s in slices.items():
            whole[name][s.start : s.start + len(s.rows)] = torch.tensor(s.rows)
    return sum(s.rows.nbytes for s in slices.values())


def write(path: Path, parts: Iterable[Slices]) -> None:
    """A safetensors file of every rank's rows, one rank at a time."""
    places: dict[str, int] | None = None
    with path.open("wb") as file:
        for part in parts:
            places = _head(file, part) if places is None else places
            for name, s in part.items():
                if not s.rows.size:
                    continue
                file.seek(places[name] + s.start * math.prod(s.shape[1:]) * s.rows.itemsize)
                file.write(np.ascontiguousarray(s.rows).data)


def _head(file: BinaryIO, part: Slices) -> dict[str, int]:
    """Write the header; where each tensor begins."""
    header, places, end = {}, {}, 0
    for name, s in part.items():
        begin, end = end, end + math.prod(s.shape) * s.rows.itemsize
        places[name] = begin
        header[name] = {"dtype": _DTYPES[str(s.rows.dtype)], "shape": list(s.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + place for name, place in places.items()}


def read(path: Path, rank: int, ranks: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Slices:
    """A rank's rows of a file; with ``shapes``, of these tensors. Raises RecordError."""
    found: Slices = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                whole = file.get_slice(name)
                shape = tuple(whole.get_shape())
                if not shape:
                    found[name] = Slice(shape, 0, file.get_tensor(name))
                    continue
                rows = span(shape, rank, ranks)
                none = np.empty((0, *shape[1:]), _NUMPY[whole.get_dtype()])
                found[name] = Slice(shape, rows.start, whole[rows.start : rows.stop] if rows else none)
    except (OSError, SafetensorError) as cause:
        raise RecordError(f"{path} cannot be read: {cause}. Resume from an earlier checkpoint.") from cause
    if shapes is not None and (got := {name: s.shape for name, s in found.items()}) != shapes:
        odd = sorted(k for k in got.keys() | shapes.keys() if got.get(k) != shapes.get(k))[:3]
        raise RecordError(
            f"{path} belongs to another model or adaptation: it differs in {', '.join(odd)}. Resume with the model and "
            "--lora.rank the run began with."
        )
    return found
