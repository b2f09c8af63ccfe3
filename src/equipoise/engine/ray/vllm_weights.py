"""A policy's weights by the names that a Hugging Face model's files have, which is how vLLM reads them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from equipoise.engine.local.engine import LocalEngine


@torch.no_grad()
def plain(engine: LocalEngine, policy: str) -> Mapping[str, Tensor]:
    """The model's own tensors, adapters left out, each once: a head that is tied to the table goes by the table's name.
    Shares memory with the engine's."""
    model = engine.network.model
    with engine._as(policy):
        whole = {name: parameter.detach() for name, parameter in model.named_parameters()}
    kept = model.state_dict().keys()  # buffers that files have
    whole |= {name: buffer for name, buffer in model.named_buffers() if name in kept}
    own = {name.replace(".base_layer.", "."): t for name, t in whole.items() if ".lora_" not in name}
    named: Mapping[str, Tensor] = revert_weight_conversion(model, own)
    return named


def adapters(engine: LocalEngine, policy: str) -> Mapping[str, Tensor]:
    """Of a policy, by the names that PEFT's files have."""
    weights = engine.weights(policy)
    return {f"base_model.model.{n.replace('.default.', '.')}": t for n, t in weights.items() if ".lora_" in n}
