"""One token through a decoder of the commonest kind, with a third of the calls that ``transformers`` makes.

For models built like Llama (Mistral, Qwen 2 and 3, SmolLM): norm, attention with rotary positions, norm, gated product,
each added to what it read. Projections of the same input are one product, and heads that share keys are rows of one
product. Whether a model is of this kind is seen by its parts; whether the numbers agree is found at load (``probe``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.engine.local import flash
from equipoise.engine.local.cache import Memory
from equipoise.engine.local.prepacked import Packing, Product, pack

PARTS = {
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
    "input_layernorm": set(),
    "post_attention_layernorm": set(),
}
NORMS = {"q_norm", "k_norm"}  # of heads, in some
KINDS = {"llama", "mistral", "qwen2", "qwen3"}
Pair = tuple[Tensor, Tensor]  # keys and values


def layers_of(model: Any) -> Any:
    """What holds the layers, beneath an adapter's wrapper."""
    return getattr(model.base_model, "model", model.base_model)


def fits(model: Any, config: Any) -> bool:
    """Whether every layer has these parts and no other."""
    body = layers_of(model)
    layers = getattr(body, "layers", None)
    if config.model_type not in KINDS or not layers or not hasattr(body, "rotary_emb") or not hasattr(body, "norm"):
        return False
    return all(_fits(layer) for layer in layers)


def _fits(layer: nn.Module) -> bool:
    own = dict(layer.named_children())
    if set(own) != set(PARTS) or getattr(layer.self_attn, "layer_type", "full_attention") != "full_attention":
        return False
    inner = {name: {n for n, _ in own[name].named_children()} - NORMS for name in ("self_attn", "mlp")}
    return all(inner[name] == PARTS[name] for name in inner)


def is_silu(act: Any) -> bool:
    """torch's or transformers' own."""
    return type(act).__name__.startswith("SiLU")


class Stack:
    """A model's weights as they are now. ``step`` appends one token to every row of a cache. ``packing``: of products
    of few rows."""

    def __init__(self, model: Any, packing: Packing | None) -> None:
        self.body = layers_of(model)
        self.layers = [Layer(layer, packing) for layer in self.body.layers]
        self.products = [p for layer in self.layers for p in layer.products]

    def step(self, ids: Tensor, position: Tensor, prompts: Seen, sharing: Sharing, own: Seen) -> Tensor:
        """``ids [B]``, ``position [B, 1]`` -> [B, D]. The tokens' keys and values are appended to ``own``, whose
        ``real`` has a column for them. Only products are of another type than float32."""
        pack(self.products, len(ids))
        x = self.body.embed_tokens(ids)
        cos, sin = (t[:, 0, None, :] for t in self.body.rotary_emb(x, position))  # [B, 1, D of a head]
        for k, layer in enumerate(self.layers):
            read, scale = prompts.memory.layers[k].columns, layer.attention.scaling

            def attend(
                query: Tensor, key: Tensor, value: Tensor, k: int = k, read: Pair = read, scale: float = scale
            ) -> Tensor:
                query = query.to(value.dtype)
                before = sharing.gather(*flash.forward(sharing.spread(query), *read, False, prompts.bias, scale))
                mine = flash.few(query, *own.memory.append(k, key, value), own.bias, scale)
                return merged(before, mine).flatten(1)

            x = layer.step(x, cos, sin, attend)
        return norm(self.body.norm, x)


class Seen:
    """Keys and values, and which columns hold a token: ``real [rows, columns]``."""

    def __init__(self, memory: Memory, real: Tensor) -> None:
        self.memory = memory
        whole = bool(real.all())
        self.bias = None if whole else torch.zeros(real.shape).masked_fill_(~real, -torch.inf)[:, None, None, :]


@dataclass(frozen=True)
class Sharing:
    """Which rows go on from which prompt, as attention to prompts wants it: [P * S], S rows a prompt, some of them
    empty."""

    prompts: int
    size: int
    slot: Tensor | None  # [B] each row's place; None where all are taken, in order

    @staticmethod
    def of(fan: NDArray[np.int64], prompts: int, device: torch.device) -> Sharing:
        counts = np.bincount(fan, minlength=prompts)
        order = np.argsort(fan, kind="stable")
        rank = np.empty_like(fan)
        rank[order] = np.arange(len(fan)) - np.repeat(np.cumsum(counts) - counts, counts)
        size = int(counts.max(initial=0))
        slot = fan * size + rank
        taken = np.array_equal(slot, np.arange(prompts * size))
        return Sharing(prompts, size, None if taken else torch.as_tensor(slot, device=device))

    def spread(self, rows: Tensor) -> Tensor:
        """[B, H, G, D] -> [P, H, S * G, D]"""
        if self.slot is not None:
            rows = rows.new_zeros(self.prompts * self.size, *rows.shape[1:]).index_copy_(0, self.slot, rows)
        return rows.view(self.prompts, self.size, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)

    def gather(self, *whole: Tensor) -> tuple[Tensor, ...]:
        """Each [P, H, S * G, ...] -> [B, H, G, ...]"""
        apart = (t.view(*t.shape[:2], self.size, t.shape[2] // self.size, *t.shape[3:]) for t in whole)
        found = (t.transpose(1, 2).flatten(0, 1) for t in apart)
        return tuple(found) if self.slot is None else tuple(t[self.slot] for t in found)


def merged(one: flash.Part, other: flash.Part) -> Tensor:
    """What one softmax over the keys of both finds (Milakov & Gimelshein, arXiv 1805.02867, section 3)."""
    share = torch.sigmoid(one[1] - other[1])[..., None]
    return torch.lerp(other[0], one[0], share.to(one[0].dtype))


class Layer:
    """One layer: its products, and a step through it."""

    def __init__(self, layer: Any, packing: Packing | None) -> None:
        self.attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after, self.act = layer.input_layernorm, layer.post_attention_layernorm, mlp.act_fn
        self.swish = is_silu(self.act)
        self.size = int(self.attention.head_dim)
        a = self.attention
        self.qkv = product([a.q_proj, a.k_proj, a.v_proj], packing)
        self.out = product([a.o_proj], packing)
        self.gate, self.up, self.down = (product([m], packing) for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self.products = [self.qkv, self.out, self.gate, self.up, self.down]
        self.heads, self.shared = (n // self.size for n in (len(self.qkv.weights[0]), len(self.qkv.weights[1])))

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """[B, D]. ``attend``: queries [B, H, G, D] with the new keys and values [B, H, 1, D] -> [B, H * G * D]."""
        x = self.out(attend(*self.project(norm(self.before, x), cos, sin)), "add", x)
        read = norm(self.after, x)
        gate = self.gate(read, "swish") if self.swish else self.act(self.gate(read))
        return self.down(self.up(read, "mul", gate), "add", x)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.qkv(x).view(len(x), -1, self.size)
        turned, value = found[:, : self.heads + self.shared], found[:, self.heads + self.shared :]
        if hasattr(self.attention, "q_norm"):
            q, k = turned[:, : self.heads], turned[:, self.heads :]
            turned = torch.cat([norm(self.attention.q_norm, q), norm(self.attention.k_norm, k)], 1)
        turned = rotated(turned, cos, sin)
        query = turned[:, : self.heads].reshape(len(x), self.shared, -1, self.size)
        return query, turned[:, self.heads :, None], value[:, :, None]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (k, k + D/2) of ``x [..., D]``, turned by their angles (arXiv 2104.09864, section 3.2)."""
    found, half = x * cos, x.shape[-1] // 2
    found[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    found[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return found


def product(layers: Sequence[Any], packing: Packing | None) -> Product:
    """The layers' present weights; an adapter's are added in."""
    return Product([weight(m) for m in layers], [getattr(m, "base_layer", m).bias for m in layers], packing)


def weight(layer: Any) -> Tensor:
    base: Tensor = getattr(layer, "base_layer", layer).weight.detach()
    if not hasattr(layer, "base_layer") or layer.merged or layer.disable_adapters:
        return base
    for name in layer.active_adapters:
        base = base + layer.get_delta_weight(name).detach()
    return base


def norm(layer: Any, x: Tensor) -> Tensor:
    """Divided by its root mean square, as the model's own module does it, in float32."""
    y = x.float()
    mean = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_().div_(y.shape[-1])
    scaled: Tensor = (y * mean.add_(layer.variance_epsilon).rsqrt_()).mul_(layer.weight)
    return scaled
