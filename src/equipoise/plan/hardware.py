"""Figures of accelerators, as their vendor publishes them, and shapes of models, as their authors publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from equipoise.errors import ArgumentError, UnknownName
from equipoise.types import ModelInfo


@dataclass(frozen=True)
class Gpu:
    """One accelerator. Bandwidths are of one direction."""

    name: str
    flops: float  # a second, bfloat16, dense
    memory_bytes: float
    memory_bytes_s: float
    node_bytes_s: float  # to the others of its node
    network_bytes_s: float  # to other nodes
    node: int = 8  # accelerators a node


# Vendor's data sheets (NVIDIA); NVLink is stated for both directions together, so halved here. The network is one
# InfiniBand NDR port of 400 Gb/s an accelerator (HDR, 200 Gb/s, beside the A100), as in the vendor's reference nodes.
GPUS = {
    "a100": Gpu("a100", 312e12, 80e9, 2.039e12, 300e9, 25e9),
    "h100": Gpu("h100", 989e12, 80e9, 3.35e12, 450e9, 50e9),
    "h200": Gpu("h200", 989e12, 141e9, 4.8e12, 450e9, 50e9),
}


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention and a gated feed-forward layer; output head apart from the table."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int  # of the feed-forward layer
    vocabulary: int

    @property
    def body(self) -> int:
        """Parameters that multiply every token."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def head(self) -> int:
        return self.width * self.vocabulary

    @property
    def parameters(self) -> int:
        return self.body + 2 * self.head

    def cache_bytes(self, number_bytes: int = 2) -> int:
        """Of one token's keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_width * number_bytes

    def info(self, trainable: float) -> ModelInfo:
        """As the formulae of FLOPs know a model; ``trainable``: share of the parameters."""
        return ModelInfo(
            name=self.name,
            revision=None,
            parameters=self.parameters,
            trainable=round(trainable * self.parameters),
            body=self.body,
            head=self.head,
            layers=self.layers,
            width=self.heads * self.head_width,
            vocabulary=self.vocabulary,
            context=1 << 20,
            eos=(0,),
            dtype="bfloat16",
            device="simulated",
        )


# Shapes as in the published configurations of Qwen2.5-7B and Llama-3.1-70B.
SHAPES = {
    "7b": Shape("7b", 28, 3584, 28, 4, 128, 18944, 152064),
    "70b": Shape("70b", 80, 8192, 64, 8, 128, 28672, 128256),
}


def gpu(asked: str | Mapping[str, Any]) -> Gpu:
    """By name, or from a table of figures. Raises UnknownName, ArgumentError."""
    return _either("gpu", asked, GPUS, Gpu)


def shape(asked: str | Mapping[str, Any]) -> Shape:
    """By name, or from a table of sizes. Raises UnknownName, ArgumentError."""
    return _either("model shape", asked, SHAPES, Shape)


Kind = TypeVar("Kind", Gpu, Shape)


def _either(what: str, asked: str | Mapping[str, Any], known: Mapping[str, Kind], kind: type[Kind]) -> Kind:
    if isinstance(asked, str):
        if asked not in known:
            raise UnknownName(what, asked, known)
        return known[asked]
    wanted = {f.name for f in fields(kind)}
    if unknown := asked.keys() - wanted:
        raise UnknownName(f"figure of a {what}", min(unknown), wanted)
    try:
        made = kind(**{"name": "own", **asked})
    except TypeError as e:
        raise ArgumentError(f"a {what} of one's own needs the figures {', '.join(sorted(wanted))}: {e}") from e
    for name in wanted - {"name"}:
        value = getattr(made, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ArgumentError(f"{name} of a {what} is {value!r}; expected a number above 0")
    return made
