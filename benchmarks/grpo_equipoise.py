"""One GRPO workload on Equipoise's side.

python benchmarks/grpo_equipoise.py '<Work as JSON>'      prints one line of JSON
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from transformers import AutoTokenizer

from equipoise.budget import Budget
from equipoise.job.settings import Settings
from equipoise.parts.signals import verifier
from runs import Timed, settings, timed, write_rows
from workloads import SPARE, Work, prompts

REWARD = f"{Path(__file__).with_name('reward.py')}:reward"


def job(work: Work, data: Path) -> Settings:
    """A run of exactly ``steps`` + 1 steps."""
    return settings(
        method="grpo",
        task=f"file:{data}",
        knobs={"verifier": REWARD, "max_new_tokens": work.new},
        model=work.model,
        device=work.device,
        dtype=work.dtype,
        threads=work.threads,
        arguments={"prompts": work.prompts, "samples": work.samples, "lr": 1e-6},
        budget=Budget(generated_tokens=(work.steps + 1) * work.tokens),
    )


def write(data: Path, work: Work) -> None:
    """A prompt for each place of each step."""
    count = (work.steps + 1) * work.prompts
    texts = prompts(AutoTokenizer.from_pretrained(work.model), work.length, count + SPARE)
    write_rows(data, [{"prompt": text} for text in texts])


def run(work: Work) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "prompts.jsonl"
        write(data, work)
        with patch.object(verifier, "truncated", lambda score: score):  # every reply is cut off, which would score 0
            found = timed(job(work, data))
    return {
        "step_s": found.wall,
        "sample_s": found.laps["generate_s"],
        "learn_s": found.laps["train_s"],
        "record_s": found.rest("generate_s", "score_s", "credit_s", "train_s"),
        "resident_mb": found.resident,
        "generated": generated(found),
        "updates": sum("grad_norm" in line for line in found.metrics) - 1,
        "mismatch": max(line["mismatch_max"] for line in found.metrics),
        **found.sizes(),
    }


def generated(found: Timed) -> list[int]:
    """Tokens of each step but the first."""
    spent = [int(line["spent/generated_tokens"]) for line in found.metrics]
    return [after - before for before, after in itertools.pairwise(spent)]


if __name__ == "__main__":
    print(json.dumps(run(Work.parse(sys.argv[1]))))
