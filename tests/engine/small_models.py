"""Small models with random weights, and a tokenizer, made on the spot."""

from __future__ import annotations

from typing import Any

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
        "falcon": lambda: tf.FalconConfig(
            **shared
            | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
            | changes
        ),
        "mixtral": lambda: tf.MixtralConfig(**common | {"num_local_experts": 4, "sliding_window": None} | changes),
        "rwkv": lambda: tf.RwkvConfig(**shared | {"hidden_size": 32, "num_hidden_layers": 2} | changes),
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


def policy_gradient(scope: str = "response") -> Any:
    """-(advantage * ratio), mean over tokens of a response, then over responses; with one metric."""
    from equipoise.types import Loss, Objective

    def loss(out: Any, batch: Any) -> Any:
        old = out.logp.detach() if batch.old is None else batch.old
        per_token = -(out.logp - old).exp() * batch.advantage
        per_group = batch.per_group(batch.per_response(per_token) / batch.lengths) / batch.totals.responses
        return Loss(per_group, {"logp": (out.logp.detach().sum(), len(out.logp))})

    return Objective(loss, "-A r", "responses", frozenset({"advantage"}), scope)  # type: ignore[arg-type]


def contrast(needs: frozenset[str] = frozenset(), scope: str = "batch") -> Any:
    """Each group's mean log-prob against those of all groups of the batch: no part of it can be computed alone."""
    import torch

    from equipoise.types import Loss, Objective

    def loss(out: Any, batch: Any) -> Any:
        mean = batch.per_group(batch.per_response(out.logp) / batch.lengths)
        extra = batch.per_group(batch.per_response(sum(out.reduced.values(), 0 * out.logp)))
        values = [batch.per_group(batch.per_response(h[:, 0] ** 2 + h[:, 0])) for h in out.heads.values()]
        return Loss(-torch.log_softmax(mean, 0) + 0.1 * extra + sum(values, 0 * extra))

    return Objective(loss, "contrast", "-", needs, scope)  # type: ignore[arg-type]


def rollouts(engine: Any, prompts: int = 4, samples: int = 4, tokens: int = 10, seed: int = 0, **decoding: Any) -> Any:
    """Sampled groups with advantages, prompts of unequal length."""
    from dataclasses import replace

    import numpy as np

    from equipoise.keys import Key
    from equipoise.types import Decoder, Note, Prompt

    asked = [
        engine.encode(Prompt(f"p{k}", messages=({"role": "user", "content": "say " + "ab" * k},)))
        for k in range(prompts)
    ]
    keys = [Key((seed, k)) for k in range(prompts)]
    groups = engine.sample(asked, samples, Decoder(tokens, **decoding), keys)
    advantages = [np.linspace(-1, 1, samples) + 0.1 * k for k in range(prompts)]
    return [replace(g, notes={"advantage": Note("response", (a,))}) for g, a in zip(groups, advantages, strict=True)]


def gradients(engine: Any, groups: Any, objective: Any) -> Any:
    """The gradient as one float64 vector; metrics; notes. Clears it."""
    import torch

    from equipoise.engine.batch import count

    metrics, notes = engine.backward(groups, objective, count(groups))
    flat = torch.cat([p.grad.double().flatten() for p in engine.trained.values() if p.grad is not None])
    engine.discard()
    return flat, metrics, notes
