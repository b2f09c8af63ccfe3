"""The local engine: one process, one device, any Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from equipoise.engine.batch import projection
from equipoise.engine.local import adaptation
from equipoise.engine.local.allocator import keep_freed
from equipoise.engine.local.engine import LocalEngine, Settings, describe
from equipoise.engine.local.network import Network
from equipoise.engine.local.probe import probe
from equipoise.engine.local.text import Text, end_tokens
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError, ModelError, UnknownName
from equipoise.models import resolve
from equipoise.models.loading import open_model, without_dropout
from equipoise.types import columns, projects

__all__ = ["LocalEngine", "deterministic", "load", "wrap"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def deterministic(threads: int | None = None) -> None:
    """Deterministic algorithms, and this many threads (results depend on their number)."""
    torch.use_deterministic_algorithms(True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  # would fill every cache that is allocated ahead
    if threads is not None:
        torch.set_num_threads(threads)


def load(model: str, *, device: str = "auto", dtype: str = "auto", **settings: Any) -> LocalEngine:
    """Open a model by name (see ``equipoise.models.resolve``) and make an engine of it; settings as for ``wrap``.

    ``dtype`` is of the matrix products; weights, gradients and optimiser stay float32. "auto": float32 on CPU and
    MPS; bfloat16 on CUDA where supported. Raises ModelError, UnknownName, MissingExtra, ArgumentError.
    """
    source = resolve(model)
    opened, tokenizer = open_model(source)
    return wrap(opened, tokenizer, name=source.name, revision=source.revision, device=device, dtype=dtype, **settings)


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    name: str,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    lora_rank: int | None = None,
    seed: int = 0,
    heads: Iterable[str] = (),
    keep: Sequence[str] = (),
    rows_tokens: int | None = None,
    sampled_rows: int | None = None,
    checkpointing: bool = False,
    optimiser: Optimiser = Optimiser(),  # noqa: B008  # frozen
) -> LocalEngine:
    """An engine of an open ``transformers`` model.

    ``heads``: names of extra linear heads (``types.columns`` says how wide), 0 at the start unless
    ``types.projects``: those are a function of ``seed``. ``keep``: names for
    snapshots of the start. ``rows_tokens``: tokens of a micro-batch; None: what keeps activations under 1 GB on CPU,
    and under 3 elsewhere, or twice a prompt that its responses share.
    ``sampled_rows``: responses in flight; None: what keeps their cache under 2 GB. ``checkpointing``: recompute
    activations in backward passes.
    """
    where = _device(device)
    if where.type == "cpu":
        keep_freed()
    compute = _compute(dtype, where)
    without_dropout(model)
    model.to(device=where, dtype=torch.float64 if compute == torch.float64 else torch.float32).eval()
    context = _context(model)
    exact = Network(model, where, next(model.parameters()).dtype)  # checked without rounding
    with exact.products():
        probe(exact, name, context)
    wrapper = adaptation.add_lora(model, lora_rank, seed) if lora_rank else None
    exact.compute = compute
    exact.blocks &= not checkpointing  # recomputed outside of our pass, where the model's own attention is set
    _trainable(model, wrapper is None, checkpointing)
    extra = _heads(heads, exact, seed)
    more = sum(p.numel() for p in extra.parameters())
    info = describe(exact, name, revision, end_tokens(model, tokenizer), context, checkpointing, more)
    tokens = rows_tokens or _rows_tokens(exact, checkpointing)
    settings = Settings(tokens, rows_tokens is None, sampled_rows, optimiser)
    engine = LocalEngine(exact, wrapper, extra, info, Text(tokenizer, name, info.eos, context), settings)
    for policy in keep:
        engine.combine(policy, {"current": 1.0})
    return engine


def _trainable(model: Any, full: bool, checkpointing: bool) -> None:
    if full:
        model.requires_grad_(True)
    if checkpointing:
        renamed = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        renamed({"use_reentrant": False})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UnknownName("device", name, ["auto", "cpu", "cuda", "mps"])
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not found:
        raise ArgumentError(f"device {name!r} was asked for, and torch finds none here. Use --device auto or cpu.")
    return torch.device(name)


def _compute(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if name not in _DTYPES:
        raise UnknownName("dtype", name, ["auto", *_DTYPES])
    return _DTYPES[name]


def _context(model: Any) -> int:
    """Longest sequence; with rotary scaling that changes with the sequence's length, the part before it changes."""
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [r for r in (rope, *rope.values()) if isinstance(r, dict) and r.get("rope_type") in ("dynamic", "longrope")]
    for kind in kinds:
        longest = min(longest, int(kind.get("original_max_position_embeddings") or longest))
    return longest


def _rows_tokens(network: Network, checkpointing: bool) -> int:
    """Tokens whose activations take about 3 GB (CPU: 1): some 24 numbers per unit of width and layer, 3 if recomputed.

    More than 8192 (CPU: 2048) gain nothing: smaller micro-batches stay in a processor's caches."""
    layers = int(network.config.num_hidden_layers)
    per_token = 4 * network.width * layers * (3 if checkpointing else 24)
    room, most = (1 << 30, 2048) if network.device.type == "cpu" else (3 << 30, 8192)
    return max(512, min(most, room // per_token))


def _heads(wanted: Iterable[str], network: Network, seed: int) -> nn.ModuleDict:
    names = list(wanted)
    if names and not network.splits:
        raise ModelError("heads need the model's hidden states, and only its logits can be read here.")
    dtype = torch.float64 if network.compute == torch.float64 else torch.float32
    heads = nn.ModuleDict()
    for name in names:
        head = nn.Linear(network.width, columns(name, network.vocabulary))
        with torch.no_grad():
            start = projection(head.in_features, head.out_features, name, seed) if projects(name) else torch.zeros(1, 1)
            head.weight.copy_(start[:-1].T if projects(name) else start)
            head.bias.copy_(start[-1])
        heads[name] = head.to(device=network.device, dtype=dtype)
    return heads
