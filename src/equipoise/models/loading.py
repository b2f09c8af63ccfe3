"""Opening a model and its tokenizer with ``transformers``; remote code is never run."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from equipoise.errors import ModelError
from equipoise.models import Source


def open_model(source: Source) -> tuple[Any, Any]:
    """The model in float32 with dropout off, and its tokenizer. Raises ModelError with the cause and the fix."""
    keywords: dict[str, Any] = {"trust_remote_code": False}
    if source.revision:
        keywords["revision"] = source.revision
    if source.gguf:
        keywords["gguf_file"] = source.gguf
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the bar of dequantisation knows no switch
            tokenizer = AutoTokenizer.from_pretrained(source.location, **keywords)
            config = AutoConfig.from_pretrained(source.location, **keywords)
            attention = "eager" if _softcaps(config) else None
            model = AutoModelForCausalLM.from_pretrained(
                source.location, dtype=torch.float32, attn_implementation=attention, **keywords
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as cause:
        raise ModelError(
            f"model {source.name!r} could not be opened from {source.location}: {_advice(cause)}"
        ) from cause
    if source.gguf:
        _forget_quantisation(model)
    without_dropout(model)
    return model, tokenizer


def without_dropout(model: torch.nn.Module) -> None:
    """Set every dropout to 0: a log-prob must not depend on whether a gradient is wanted."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _forget_quantisation(model: Any) -> None:
    """Weights read from GGUF are dequantised; a saved folder must not say otherwise."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None


def _softcaps(config: Any) -> bool:
    """Fused attention cannot cap attention logits."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def _advice(cause: Exception) -> str:
    first = str(cause).strip().split("\n")[0][:300]
    if "trust_remote_code" in str(cause):
        return f"{first} Equipoise never runs a model's own code; choose an architecture that transformers ships."
    return f"{first} Check the name and, for a hub id, the network; a local folder needs config, weights and tokenizer."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars out of a log, and what PEFT asks of transformers by an old name; errors are
    raised."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after tokenising
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
