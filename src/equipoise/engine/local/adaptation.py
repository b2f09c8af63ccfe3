"""What is trained: all weights, or low-rank adapters through PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from equipoise.errors import MissingExtra
from equipoise.models.loading import quiet


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """The model with adapters of this rank on every linear layer but the head; everything else frozen.

    Returns PEFT's wrapper; the model it wraps computes with the adapters. At the start they change nothing (B = 0).
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as cause:
        raise MissingExtra("peft, which trains LoRA adapters,", "pip install peft") from cause
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)  # A is random, so that a seed names its start
        return get_peft_model(model, config)


def export(model: Any, wrapper: Any, tokenizer: Any, folder: Path, merge: bool) -> None:
    """A plain Hugging Face folder: the model, adapters merged; or the adapters alone (``merge=False``)."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        if wrapper is None:
            model.save_pretrained(folder)
        elif merge:
            copy.deepcopy(wrapper).merge_and_unload().save_pretrained(folder)
        else:
            wrapper.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
