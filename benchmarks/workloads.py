"""What is timed, the same for both sides: models whose replies never end early, prompts and replies of known lengths.

Imported by either side's script in either side's environment, so it needs nothing but `transformers` and numpy.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "the of and to in is was for on that by this with from at his an were are which her or had not"
NEVER = ("<reponame>", "<|system|>")  # tokens that the shipped models hardly ever say: the first that a model knows
MB = 1024 * 1024
SPARE = 4  # rows of a data file that are not trained on


@dataclass(frozen=True)
class Work:
    """A GRPO step: ``prompts`` x ``samples`` replies of exactly ``new`` tokens to prompts of exactly ``length`` tokens,
    and one update. ``micro``: rows of a micro-batch, for a side that asks. ``steps``: steps after the first, which is
    left out of every figure."""

    model: str  # folder
    length: int
    prompts: int = 8
    samples: int = 8
    new: int = 32
    steps: int = 3
    dtype: str = "float32"  # of the matrix products; weights, gradients and optimiser are float32
    threads: int = 2
    device: str = "cpu"
    micro: int = 8

    @property
    def rows(self) -> int:
        return self.prompts * self.samples

    @property
    def tokens(self) -> int:
        """Generated in a step."""
        return self.rows * self.new

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Work:
        return Work(**json.loads(text))


@dataclass(frozen=True)
class Ragged:
    """A step on given replies: ``examples`` demonstrations or pairs (``method``: "sft" or "dpo") of log-normal length,
    and one update. ``packing`` and ``micro``: for a side that asks; ``micro`` is in rows of ``longest`` tokens where
    they are packed, and in examples otherwise."""

    model: str  # folder
    method: str
    examples: int = 16
    steps: int = 3  # after the first, as in ``Work``
    mean: float = 200.0
    sigma: float = 0.8
    longest: int = 1024
    dtype: str = "float32"
    threads: int = 2
    micro: int = 8
    packing: str = "padded"  # "padded", "packed" or "free" (padding-free)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Ragged:
        return Ragged(**json.loads(text))


def endless(name: str, folder: Path) -> Path:
    """A copy of a shipped model that is told to end its replies with a token that it hardly ever says, so that every
    reply has the length asked for. Each side counts what it generated all the same."""
    from equipoise.models import resolve
    from equipoise.models.loading import open_model

    if (folder / "config.json").exists():
        return folder
    model, tokenizer = open_model(resolve(name))
    end, vocabulary = tokenizer.eos_token, tokenizer.get_vocab()
    tokenizer.eos_token = next(token for token in NEVER if token in vocabulary)
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        tokenizer.pad_token = end
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = tokenizer.eos_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(tokenizer: Any, length: int, count: int) -> list[str]:
    """``count`` different texts of exactly ``length`` tokens. Raises ValueError where not so many are found."""
    found: dict[str, None] = {}
    for k in range(64 * count):
        text = cut(tokenizer, length, k)
        if len(tokenizer(text)["input_ids"]) == length:
            found[text] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"only {len(found)} of {count} texts of {length} tokens were found")


def cut(tokenizer: Any, length: int, k: int) -> str:
    """The ``k``-th text, cut after ``length`` tokens; read again it may have a token more or less."""
    words = WORDS.split()
    text = " ".join(words[zlib.crc32(f"{k}/{i}".encode()) % len(words)] for i in range(length))
    ids: Sequence[int] = tokenizer(text)["input_ids"][:length]
    return str(tokenizer.decode(ids))


def lengths(work: Ragged, count: int, seed: int = 0) -> list[int]:
    """Tokens of ``count`` sequences, prompt and reply and end together: log-normal with the mean asked for, cut at
    ``longest``; at least 24."""
    middle = np.log(work.mean) - work.sigma**2 / 2
    drawn = np.random.default_rng(seed).lognormal(middle, work.sigma, count)
    return [int(n) for n in np.clip(np.rint(drawn), 24, work.longest)]


def examples(tokenizer: Any, work: Ragged, count: int) -> list[dict[str, str]]:
    """``count`` demonstrations (prompt, completion) or pairs (prompt, chosen, rejected), and ``SPARE``. The prompt is
    a quarter of the sequence, of the shorter one in a pair. A few tokens may be missing to the lengths drawn, never one
    too many."""
    names = ("chosen", "rejected") if work.method == "dpo" else ("completion",)
    cost = {word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in WORDS.split()}
    drawn, found = lengths(work, 2 * (count + SPARE)), []
    for k, sizes in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        prompt = said(cost, min(sizes[: len(names)]) // 4, str(k)).strip()
        before = len(tokenizer(prompt)["input_ids"])
        replies = {name: said(cost, size - before - 1, f"{k}/{name}") for name, size in zip(names, sizes, strict=False)}
        found.append({"prompt": prompt, **replies})
    return found


def said(cost: Mapping[str, int], most: int, key: str) -> str:
    """Words of at most ``most`` tokens together, each with a space before it."""
    text, left, words = "", most, list(cost)
    for i in range(most):
        word = words[zlib.crc32(f"{key}/{i}".encode()) % len(words)]
        if cost[word] > left:
            break
        text, left = f"{text} {word}", left - cost[word]
    return text


def memory() -> tuple[float, float]:
    """Of this process, MB: resident now, and at most so far. (``ru_maxrss`` would count the parent's as well.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found["VmRSS"] / 1024, found["VmHWM"] / 1024


def device_memory() -> float:
    """MB of the GPU that tensors of this process held at most; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / MB if torch.cuda.is_available() else 0.0
