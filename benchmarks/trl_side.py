"""What all of TRL's scripts share: a clock, and settings that cost it no time for nothing."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from transformers import TrainerCallback

from workloads import device_memory, memory


class Clock(TrainerCallback):  # type: ignore[misc]  # untyped
    """When each optimiser step ended, and the most memory until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.peak = 0.0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())
        self.peak = memory()[1]

    def steps(self) -> list[float]:
        """Seconds of each step but the first, which warms up."""
        return [after - before for before, after in itertools.pairwise(self.ends)]

    def sizes(self, base: float) -> dict[str, float]:
        """``base``: MB resident before anything was loaded."""
        return {"peak_mb": self.peak, "base_mb": base, "cuda_mb": device_memory()}


def common(dtype: str, device: str, folder: str) -> dict[str, Any]:
    """float32 weights and optimiser, matrix products in ``dtype``; no recomputation, checkpoints or evaluation."""
    return {
        "output_dir": folder,
        "bf16": dtype == "bfloat16",
        "fp16": False,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,
        "learning_rate": 1e-6,
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "seed": 0,
    }
