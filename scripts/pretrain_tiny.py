"""Make the shipped model `tiny` from nothing: corpus, tokenizer, training, measurement, model card. One command, CPU.

OMP_NUM_THREADS=2 python scripts/pretrain_tiny.py            # writes src/equipoise/models/tiny
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from tiny_corpus import MIX, conversations
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from equipoise import tasks

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, END = 0, 1
TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m.role == 'assistant' -%}<|assistant|>{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{%- else -%}{{ '<|system|>' if m.role == 'system' else '<|user|>' }}{{ m.content }}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
PIECES = r"\p{N}|\s?\p{L}+|[^\p{N}\p{L}]+"  # a digit is always alone; a word keeps the space before it
NOISE = ((0.8, 0.1), (0.2, 1.0))  # share of the steps, noise of the corpus: learn first, then learn to be unsure
PROMPT_WEIGHT = 0.1  # a user's words are mostly noise; enough to learn their form
CARD = Path(__file__).with_name("tiny_card.md")


def train_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text has an encoding."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    texts = (text for turns in itertools.islice(conversations(seed), 20_000) for turn in turns for text in turn)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE, model_max_length=512
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # the fastest at this size
    return model


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a whole training, phase after phase."""
    for share, noise in NOISE:
        yield from itertools.islice(rows(tokenizer, seed + 1, noise, tokens), round(share * steps))


def rows(tokenizer: PreTrainedTokenizerFast, seed: int, noise: float, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of about ``tokens``: ids [B, L] padded on the right, weights [B, L] of predicting each id."""
    source, rng = conversations(seed, noise), random.Random(seed)
    user, assistant = (tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("user", "assistant"))
    while True:
        talks = list(itertools.islice(source, 2048))
        flat = iter(tokenizer([text for talk in talks for turn in talk for text in turn])["input_ids"])
        encoded = []
        for talk in talks:
            ids, weights = [], []
            for _ in talk:
                said, replied = next(flat), next(flat)
                ids += [user, *said, END, assistant, *replied, END]
                weights += [0.0, *[PROMPT_WEIGHT] * (len(said) + 1), 0.0, *[1.0] * (len(replied) + 1)]
            encoded.append((ids, weights))
        # Neighbours in length share a batch, so that little of it is padding.
        encoded.sort(key=lambda pair: len(pair[0]))
        found = []
        while encoded:
            size = max(tokens // len(encoded[-1][0]), 1)
            found.append(encoded[-size:])
            del encoded[-size:]
        rng.shuffle(found)
        yield from map(padded, found)


def padded(batch: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in batch])
    return ids, torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in batch])


def pretrain(
    model: LlamaForCausalLM, data: Iterator[tuple[Tensor, Tensor]], steps: int, peak: float, bf16: bool, out: Path
) -> None:
    """Muon for matrices and AdamW for the rest, warm-up over 3% of the steps, cosine to 2% of the peak.

    Rows are padded on the right and attention is causal, so no mask is needed.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01),
        torch.optim.AdamW(others, lr=peak / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [peak, peak / 5]
    with Progress() as progress:
        bar, average = progress.add_task("pretraining", total=steps), 0.0
        for step, (ids, weights) in enumerate(data):
            warm, left = (step + 1) / (0.03 * steps), 0.5 * (1 + math.cos(math.pi * step / steps))
            for optimiser, top in zip(optimisers, peaks, strict=True):
                optimiser.param_groups[0]["lr"] = top * min(warm, 0.02 + 0.98 * left)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            losses = cross_entropy(logits, ids[:, 1:].flatten(), reduction="none") * weights[:, 1:].flatten()
            loss = losses.sum() / weights[:, 1:].sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            average = 0.98 * average + 0.02 * loss.item() if step else loss.item()
            progress.update(bar, advance=1, description=f"pretraining: loss {average:.3f}")
            if step % 500 == 499:
                model.save_pretrained(out)  # to look at while it trains
            if step % 100 == 99:
                progress.console.print(f"step {step + 1}: loss {average:.4f}")


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], new: int, greedy: bool
) -> list[str]:
    """One reply to each chat prompt at temperature 1 (or greedy), "" where the end was not reached."""
    chats = [[{"role": "user", "content": text}] for text in texts]
    tokenizer.padding_side = "left"
    inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt")
    how = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    out = model.generate(**inputs, max_new_tokens=new, **how)[:, inputs["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True) if END in row else "" for row in out]


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: int = 100, samples: int = 16
) -> list[dict[str, float | str]]:
    """pass@1, pass@8 (unbiased, from ``samples``) and greedy accuracy of every task on its validation split."""
    found: list[dict[str, float | str]] = []
    for name, difficulty in [*MIX, ("lists", 3)]:
        task = tasks.load(name, difficulty=difficulty)
        prompts = list(task.splits["validation"])[:items]
        texts = [str(p.messages[0]["content"]) for p in prompts]

        def rights(copies: int, greedy: bool) -> Tensor:
            many = [t for t in texts for _ in range(copies)]  # noqa: B023
            said = sample(model, tokenizer, many, task.max_new_tokens, greedy)  # noqa: B023
            asked = [p for p in prompts for _ in range(copies)]  # noqa: B023
            verdicts = task.verify(asked, said) if task.verify else []  # noqa: B023
            return torch.tensor([v.value for v in verdicts]).view(-1, copies)

        right = rights(samples, False).sum(1)
        missed = [math.comb(int(samples - r), 8) / math.comb(samples, 8) for r in right]
        found.append(
            {
                "task": name,
                "difficulty": difficulty,
                "pass@1": float(right.mean()) / samples,
                "pass@8": 1 - sum(missed) / len(missed),
                "greedy": float(rights(1, True).mean()),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    home = Path(__file__).parents[1] / "src/equipoise/models/tiny"
    parser.add_argument("--out", type=Path, default=home)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tokens", type=int, default=3072, help="a step, padding included")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--bf16", action="store_true", help="matmuls in bfloat16: twice as fast where the CPU has AMX")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    tokenizer = train_tokenizer(args.seed, args.vocabulary)
    tokenizer.save_pretrained(args.out)
    model = new_model(tokenizer, args.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, {torch.get_num_threads()} threads")
    pretrain(model, batches(tokenizer, args.seed, args.steps, args.tokens), args.steps, args.lr, args.bf16, args.out)
    minutes = (time.monotonic() - began) / 60
    model.eval().save_pretrained(args.out)
    table = [
        f"| {r['task']} | {r['difficulty']} | {r['pass@1']:.0%} | {r['pass@8']:.0%} | {r['greedy']:.0%} |"
        for r in measure(model, tokenizer)
    ]
    facts = {"parameters": f"{model.num_parameters():,}", "vocabulary": len(tokenizer), "steps": args.steps}
    card = CARD.read_text().format(**facts, tokens=args.tokens, minutes=f"{minutes:.0f}", table="\n".join(table))
    (args.out / "README.md").write_text(card)


if __name__ == "__main__":
    main()
