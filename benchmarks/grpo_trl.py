"""The same workload on TRL's side, in an environment of its own (`make bench` makes it).

    .venv-trl/bin/python benchmarks/grpo_trl.py '<Work as JSON>'      prints one line of JSON

What would cost TRL time for nothing here is off: gradient checkpointing, a reference model, completions in the log,
checkpoints, evaluation. TRL samples all of a step's replies in one call whatever the micro-batch is, and makes one
update a step; this script counts both.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from reward import reward
from trl_side import Clock, common
from workloads import Work, memory, prompts


class Sampling:
    """Seconds and tokens of each call of ``generate``."""

    def __init__(self, model: Any) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.shapes: set[tuple[int, int]] = set()
        self._generate, self._end = model.generate, int(model.generation_config.eos_token_id)
        model.generate = self

    def __call__(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        began = time.monotonic()
        found: torch.Tensor = self._generate(input_ids=input_ids, **kwargs)
        if found.is_cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - began)
        self.shapes.add((input_ids.shape[0], input_ids.shape[1]))
        replies = found[:, input_ids.shape[1] :]
        self.tokens.append(int((replies == self._end).cumsum(1).eq(0).sum()))
        return found


def config(work: Work, folder: str) -> GRPOConfig:
    return GRPOConfig(
        **common(work.dtype, work.device, folder),
        per_device_train_batch_size=work.micro,
        gradient_accumulation_steps=work.rows // work.micro,
        num_generations=work.samples,
        max_completion_length=work.new,
        max_steps=work.steps + 1,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
    )


def run(work: Work) -> dict[str, object]:
    torch.set_num_threads(work.threads)
    base = memory()[0]
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).to(work.device)
    texts = prompts(tokenizer, work.length, (work.steps + 1) * work.prompts)
    sampling, clock = Sampling(model), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config(work, folder),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    if sampling.shapes != {(work.rows, work.length)} or len(sampling.seconds) != len(clock.ends):
        raise SystemExit(f"not the work asked for: {len(sampling.seconds)} calls of generate on {sampling.shapes}")
    steps = clock.steps()
    return {
        "step_s": steps,
        "sample_s": sampling.seconds[1:],
        "learn_s": [step - drawn for step, drawn in zip(steps, sampling.seconds[1:], strict=True)],
        "generated": sampling.tokens[1:],
        "updates": trainer.state.global_step - 1,
        **clock.sizes(base),
    }


if __name__ == "__main__":
    print(json.dumps(run(Work.parse(sys.argv[1]))))
