"""SFT or DPO on ragged lengths on TRL's side, in an environment of its own (`make bench` makes it).

    .venv-trl/bin/python benchmarks/ragged_trl.py '<Ragged as JSON>'      prints one line of JSON

SFT: padded; packed into rows of the longest length by TRL's default strategy; or padding-free. DPO: padded, as TRL has
nothing else. The reference model's log-probs are computed in each step. Settings that cost time for nothing are off.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from trl_side import Clock, common
from workloads import SPARE, Ragged, examples, memory


class Counted:
    """Mixed into a trainer: tokens of each micro-batch, without padding."""

    tokens: list[int]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        self.tokens.append(int(seen))
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]


class Sft(Counted, SFTTrainer): ...  # type: ignore[misc]  # untyped


class Dpo(Counted, DPOTrainer): ...  # type: ignore[misc]  # untyped


def accumulated(work: Ragged) -> int:
    """Micro-batches of an update."""
    rows = work.examples if work.packing != "packed" else round(work.examples * work.mean / work.longest)
    return max(1, rows // work.micro)


def settings(work: Ragged, folder: str) -> dict[str, Any]:
    return {
        **common(work.dtype, "cpu", folder),
        "per_device_train_batch_size": work.micro,
        "gradient_accumulation_steps": accumulated(work),
        "max_steps": work.steps + 1,
    }


def trainer(work: Ragged, folder: str, clock: Clock) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    rows = Dataset.from_list(examples(tokenizer, work, (work.steps + 1) * work.examples)[:-SPARE])
    given: dict[str, Any] = {"model": model, "train_dataset": rows, "processing_class": tokenizer, "callbacks": [clock]}
    if work.method == "dpo":
        longest: dict[str, Any] = {"max_length": work.longest, "beta": 0.1}
        return Dpo(args=DPOConfig(**settings(work, folder), **longest), **given)
    free = work.packing == "free"
    longest = {"packing": work.packing == "packed", "padding_free": free, "max_length": None if free else work.longest}
    return Sft(args=SFTConfig(**settings(work, folder), **longest), **given)


def run(work: Ragged) -> dict[str, object]:
    torch.set_num_threads(work.threads)
    base, clock, each = memory()[0], Clock(), accumulated(work)
    with tempfile.TemporaryDirectory() as folder:
        running = trainer(work, folder, clock)
        running.tokens = []
        running.train()
    found = running.tokens
    return {
        "step_s": clock.steps(),
        "tokens": [sum(found[k : k + each]) for k in range(0, len(found), each)][1:],
        "shown": sum(found),
        "updates": running.state.global_step - 1,
        **clock.sizes(base),
    }


if __name__ == "__main__":
    print(json.dumps(run(Ragged.parse(sys.argv[1]))))
