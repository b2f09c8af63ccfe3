"""SFT or DPO on ragged lengths on Equipoise's side.

python benchmarks/ragged_equipoise.py '<Ragged as JSON>'      prints one line of JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from equipoise.budget import Budget
from equipoise.job.settings import Settings
from runs import settings, timed, write_rows
from workloads import Ragged, examples


def job(work: Ragged, data: Path) -> Settings:
    """A run of exactly ``steps`` + 1 steps: it ends when each example was shown once."""
    size = "prompts" if work.method == "sft" else "pairs"
    return settings(
        method=work.method,
        task=f"file:{data}",
        model=work.model,
        device="cpu",
        dtype=work.dtype,
        threads=work.threads,
        arguments={size: work.examples, "lr": 1e-6},
        budget=Budget(labels=(work.steps + 1) * work.examples),
    )


def write(data: Path, work: Ragged) -> None:
    """An example for each place of each step, and ``SPARE`` for the other splits."""
    count = (work.steps + 1) * work.examples
    write_rows(data, examples(AutoTokenizer.from_pretrained(work.model), work, count))


def run(work: Ragged) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "examples.jsonl"
        write(data, work)
        found = timed(job(work, data))
    return {
        "step_s": found.wall,
        "learn_s": found.laps["train_s"],
        "tokens": found.tokens[1:],
        "shown": sum(found.tokens),
        "updates": sum("grad_norm" in line for line in found.metrics) - 1,
        **found.sizes(),
    }


if __name__ == "__main__":
    print(json.dumps(run(Ragged.parse(sys.argv[1]))))
