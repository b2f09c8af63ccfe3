"""The model's tensors: hidden states of rows, log-probs from hidden states, and what the model was checked to do."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equipoise.engine.local import products, tables
from equipoise.engine.local.blocks import NAME, Batch, plan
from equipoise.engine.local.fused import Stack
from equipoise.engine.local.prepacked import layout, prepacked
from equipoise.engine.local.rows import Rows
from equipoise.engine.local.tokens import PerToken

CHUNK = 1 << 24  # numbers of a chunk of logits
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # of a model's config


class Unsupported(Exception):
    """A property of a model that packing cannot honour; the message names it."""


class Network:
    """A causal language model, read as hidden states and an output head.

    ``embeds``: the body reads embeddings as it reads ids. ``packs``: rows of several segments give the log-probs of
    single rows; ``blocks``: and need no masks. ``splits``: the head on hidden states gives the model's logits.
    ``memory``: how decoding rows are remembered: "fused" and "columns" (keys and values under our masks, which in
    "fused" our own step of the layers reads), "own" (the model's cache), "none". They are found out at load
    (``probe``); ``reasons`` says why not the best.
    """

    def __init__(self, model: Any, device: torch.device, compute: torch.dtype) -> None:
        self.model = model
        self.device = device
        self.compute = compute  # of the matmuls
        self.config = model.config.get_text_config()
        self.packs = self.splits = True
        self.blocks = device.type == "cpu"
        self.embeds = True
        self.memory = "columns"
        self.stack: Stack | None = None
        self.buffer = tables.Buffer()
        self.reasons: dict[str, str] = {}
        self.eager = model.config._attn_implementation == "eager"
        types = getattr(self.config, "layer_types", None)
        self.kinds: tuple[str, ...] = tuple(sorted(set(types))) if types else ()  # () : one mask for all layers
        slides = getattr(self.config, "use_sliding_window", True)
        self.window: int | None = (getattr(self.config, "sliding_window", None) or None) if slides else None

    @property
    def body(self) -> nn.Module:
        found = self.model.base_model
        return cast(nn.Module, found if found is not self.model else getattr(found, "model", found))

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys in one layer: heads may share them."""
        heads = int(getattr(self.config, "num_attention_heads", 0) or 1)
        size = int(getattr(self.config, "head_dim", 0) or self.width // heads)
        return size * int(getattr(self.config, "num_key_value_heads", 0) or heads)

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def rounds(self) -> bool:
        """Whether tensors stay float32 and only products round what they read (``products``). Where the processor
        cannot, ``autocast`` casts tensors, as on a GPU."""
        return self.compute == torch.bfloat16 and self.device.type == "cpu" and products.rounds()

    @property
    def tensors(self) -> torch.dtype:
        """The type that products read and give."""
        return torch.float32 if self.rounds else self.compute

    def products(self) -> contextlib.AbstractContextManager[None]:
        """Around whole passes, the backward one too: by oneDNN where float32 products are to round, or exact ones are
        faster so."""
        exact = self.compute == torch.float32 and self.device.type == "cpu" and products.exact_by_onednn()
        return products.by_onednn(True) if self.rounds or exact else contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Products in ``tensors``' type; weights stay as they are."""
        if self.tensors == next(self.model.parameters()).dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.compute, cache_enabled=torch.is_grad_enabled())

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Within, the weights do not change, and products of few rows are fast."""
        packing, fused = layout(self.device, self.compute), self.memory == "fused"
        self.stack = Stack(self.model, packing) if fused and (packing or self.rounds) else None
        layers = [self.model.get_output_embeddings()] if self.stack else list(self.model.modules())
        try:
            with prepacked(layers, packing):
                yield
        finally:
            self.stack = None

    def hidden(self, rows: Rows) -> Tensor:
        """What ``logprobs`` and heads read: [B * L, D] (or the logits, where the head cannot be split off)."""
        ids = torch.from_numpy(rows.ids).to(self.device)
        if rows.layout == "plain":
            return self.run(ids).flatten(0, 1)
        position = torch.from_numpy(rows.position).to(self.device)
        segment = torch.from_numpy(rows.segment).to(self.device)
        parent = torch.from_numpy(rows.parent).to(self.device)
        if self.blocks:
            return self._by_blocks(ids, position, plan(rows)).flatten(0, 1)
        own = segment[:, None, :] == segment[:, :, None]
        visible = (own | (segment[:, None, :] == parent[:, :, None])) & (position[:, None, :] <= position[:, :, None])
        return self.run(ids, self.masks(visible, position, position), position).flatten(0, 1)

    def _by_blocks(self, ids: Tensor, position: Tensor, batches: Sequence[Batch]) -> Tensor:
        nothing = torch.zeros(1, 1, 1, 1, device=self.device)  # a mask, so that the model makes none
        masks = dict.fromkeys(self.kinds, nothing) if self.kinds else nothing
        with self._attending(NAME):
            return self.run(ids, masks, position, blocks=batches)

    @contextlib.contextmanager
    def _attending(self, name: str) -> Iterator[None]:
        """With this attention function of transformers."""
        usual = self.config._attn_implementation
        self.config._attn_implementation = name
        try:
            yield
        finally:
            self.config._attn_implementation = usual

    def masks(self, visible: Tensor, query: Tensor, key: Tensor) -> Any:
        """``visible [B, Q, K]`` bool, with positions ``query [B, Q]`` and ``key [B, K]``, as the model takes it."""
        if not self.kinds:
            return self._dress(visible if self.window is None else self._slide(visible, query, key))
        masks = {}
        for kind in self.kinds:
            if kind == "full_attention":
                masks[kind] = self._dress(visible)
            elif kind == "sliding_attention" and self.window is not None:
                masks[kind] = self._dress(self._slide(visible, query, key))
            else:
                raise Unsupported(f"layers of type {kind!r}")
        return masks

    def _slide(self, visible: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert self.window is not None
        return visible & (key[:, None, :] > query[:, :, None] - self.window)

    def _dress(self, visible: Tensor) -> Tensor:
        """[B, 1, Q, K], additive where attention is eager."""
        mask = visible[:, None]
        if not self.eager:
            return mask
        return torch.zeros_like(mask, dtype=self.tensors).masked_fill_(~mask, torch.finfo(self.tensors).min)

    def run(
        self, ids: Tensor, mask: Any = None, position: Tensor | None = None, cache: Any = None, **more: Any
    ) -> Tensor:
        """One forward pass: [B, L, D]. ``more`` goes to the attention function."""
        keywords: dict[str, Any] = {"use_cache": cache is not None, **more}
        if mask is not None:
            keywords |= {"attention_mask": mask, "position_ids": position}
        if cache is not None:
            keywords[self._cache_argument()] = cache
        with self.autocast():
            if self.splits:
                read = self.model.get_input_embeddings()
                if self.embeds and tables.plain(read):
                    keywords["inputs_embeds"] = tables.Lookup.apply(read.weight, ids, read.padding_idx)  # type: ignore[no-untyped-call]
                else:
                    keywords["input_ids"] = ids
                return cast(Tensor, self.body(**keywords).last_hidden_state)
            return cast(Tensor, self.model(input_ids=ids, **keywords).logits)

    def _cache_argument(self) -> str:
        names = inspect.signature(self.body.forward).parameters
        return "cache_params" if "cache_params" in names else "past_key_values"

    def logits(self, hidden: Tensor) -> Tensor:
        """[T, D] -> [T, V] in float32 (float64 stays)."""
        if self.splits:
            with self.autocast():
                hidden = self.model.get_output_embeddings()(hidden)
        z = hidden if hidden.dtype == torch.float64 else hidden.float()
        return self._scale(z) if self.splits else z

    def _scaled(self) -> bool:
        names = ("logits_scaling", "logit_scale", *CAPS)
        return any(getattr(self.config, name, None) is not None for name in names)

    def _scale(self, z: Tensor) -> Tensor:
        """What some models do to logits after the head (Granite, Cohere, Gemma)."""
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            z = z / divisor
        if (factor := getattr(self.config, "logit_scale", None)) is not None:
            z = z * factor
        for name in CAPS:
            if (cap := getattr(self.config, name, None)) is not None:
                z = cap * torch.tanh(z / cap)
        return z

    def logprobs(
        self, hidden: Tensor, target: Tensor, temperature: Tensor, reductions: Sequence[str] = ()
    ) -> Mapping[str, Tensor]:
        """``hidden [T, D]``, ``target [T]``, ``temperature [T]`` -> "logp" [T] and each of ``reductions`` [T], nats:
        "entropy", "logsumexp" of the logits over the temperature, as the head gives them.

        In chunks, recomputed in the backward pass: [T, V] is never held.
        """
        divisor = temperature if bool((temperature != 1).any()) else None
        head = self.model.get_output_embeddings()
        if self.splits and tables.plain(head) and not self._scaled():
            reading = tables.Reading(target, divisor, tuple(reductions), self.tensors, self.buffer)
            found = tables.Head.apply(hidden, head.weight, reading)  # type: ignore[no-untyped-call]
            return dict(zip(("logp", *reductions), found, strict=True))
        parts: list[tuple[Tensor, ...]] = []
        size = max(16, CHUNK // self.vocabulary)
        for start in range(0, max(len(target), 1), size):
            span = slice(start, start + size)
            args = (hidden[span], target[span], None if divisor is None else divisor[span], tuple(reductions))
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._chunk, *args, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._chunk(*args))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return dict(zip(("logp", *reductions), columns, strict=True))

    def _chunk(
        self, hidden: Tensor, target: Tensor, temperature: Tensor | None, reductions: Sequence[str]
    ) -> tuple[Tensor, ...]:
        z = self.logits(hidden)
        z = z if temperature is None else z / temperature[:, None]
        return cast(tuple[Tensor, ...], PerToken.apply(z, target, reductions))  # type: ignore[no-untyped-call]
