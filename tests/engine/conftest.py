"""Small models with random weights, and a tokenizer, made on the spot."""

from __future__ import annotations

from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE, eos: str | None = "<|end|>") -> Any:
    """Characters as tokens, and a chat template like those in use."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|start|>", "<|end|>"]
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: k for k, token in enumerate(special + letters)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = template
    return tokenizer


def make_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A two-layer causal model of an architecture, weights large enough that a leak would show."""
    import torch
    import transformers as tf

    shared = {"vocab_size": 98, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    common = shared | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    configs: dict[str, Any] = {
        "llama": lambda: tf.LlamaConfig(**common | changes),
        "qwen3": lambda: tf.Qwen3Config(**common | {"head_dim": 8} | changes),
        "mistral": lambda: tf.MistralConfig(**common | {"sliding_window": 7} | changes),
        "gemma3": lambda: tf.Gemma3TextConfig(
            **common
            | {"head_dim": 8, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
            | changes
        ),
        "gemma2": lambda: tf.Gemma2Config(
            **common | {"head_dim": 8, "sliding_window": 7, "final_logit_softcapping": 3.0} | changes
        ),
        "granite": lambda: tf.GraniteConfig(**common | {"logits_scaling": 3.0} | changes),
        "gpt2": lambda: tf.GPT2Config(
            **shared | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2} | changes
        ),
        "mixtral": lambda: tf.MixtralConfig(**common | {"num_local_experts": 4, "sliding_window": None} | changes),
        "mamba": lambda: tf.MambaConfig(
            **shared | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.2} | changes
        ),
    }
    torch.manual_seed(seed)
    attention = {"attn_implementation": "eager"} if kind == "gemma2" else {}
    return tf.AutoModelForCausalLM.from_config(configs[kind](), **attention).float()


def make_engine(
    kind: str = "llama", *, seed: int = 0, tokenizer: Any = None, changes: Any = None, **settings: Any
) -> Any:
    from equipoise.engine.local import wrap

    model = make_model(kind, seed, **(changes or {}))
    return wrap(model, tokenizer or make_tokenizer(), name=kind, **settings)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()
