"""Which engine a run computes with, from its settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from equipoise.job.settings import Cluster, Settings
from equipoise.protocols import Engine


def open_engine(s: Settings, heads: Iterable[str]) -> Engine:
    """The engine of a run; ``close`` it in the end. Raises what the engine's ``load`` raises."""
    options: dict[str, Any] = {
        "device": s.device,
        "dtype": s.dtype,
        "lora_rank": s.lora_rank,
        "checkpointing": s.checkpointing,
        "seed": s.seed,
        "heads": list(heads),
        "optimiser": s.optimiser,
    }
    if s.cluster is None:
        from equipoise.engine import local

        return local.load(s.model, **options)
    from equipoise.engine import ray

    c = s.cluster
    options |= {"learners": c.learners, "samplers": c.samplers, "sampler": c.sampler}
    return ray.load(s.model, address=c.ray_address, deadline_s=c.deadline_s, threads=s.threads, **options)


def processes(s: Settings) -> str:
    """What results depend on to the last bit besides threads. One learner and one sampler compute as the local engine
    does, so they are told by the same words."""
    c = s.cluster or Cluster()
    return f"{c.learners} learner{'s'[: c.learners > 1]}, {c.samplers} {c.sampler} sampler{'s'[: c.samplers > 1]}"
