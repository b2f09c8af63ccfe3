"""A policy's weights by the names that a Hugging Face model's files have, which is how vLLM reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from equipoise.engine.local.engine import LocalEngine


@torch.no_grad()
def plain(engine: LocalEngine, policy: str) -> Mapping[str, Tensor]:
    """Every tensor once: a head that is tied to the table goes by the table's name. Adapters are merged into what they
    adapt; whatever is not adapted shares memory with the engine's."""
    model = engine.network.model
    with engine._as(policy):
        whole = _merged(model)
    named: Mapping[str, Tensor] = revert_weight_conversion(model, whole)
    return named


def _merged(model: Any) -> dict[str, Tensor]:
    whole = {name: parameter.detach() for name, parameter in model.named_parameters()}
    kept = model.state_dict().keys()  # buffers that files have
    whole |= {name: buffer for name, buffer in model.named_buffers() if name in kept}
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight"):  # PEFT's
            base = f"{name}.base_layer.weight"
            whole[base] = whole[base] + module.get_delta_weight("default")
    return {name.replace(".base_layer.", "."): t for name, t in whole.items() if ".lora_" not in name}
