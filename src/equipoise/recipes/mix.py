"""Supervised fine-tuning and GRPO in one stage, with a fixed weight.

    J = weight * SFT(demonstrations) + (1 - weight) * GRPO(own samples)

Each step takes one batch of either kind and makes one update. Each term is divided by its own stream's totals, so
neither dilutes the other.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Supervised and reinforcement learning mixed",
    arxiv=None,
    family="mixed",
    summary="Demonstrations and own samples in every step, with a fixed weight.",
    needs=("verifier", "demonstrations"),
)


def mix(
    task: Task,
    *,
    demonstrations: int = 8,
    prompts: int = 8,
    samples: int = 8,
    weight: float = 0.3,
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: demonstrations: a step. prompts, samples: drawn a step. weight: of the supervised term, in [0, 1].
    clip: of the ratio. lr: peak learning rate (scaled to the model)."""
    if not 0 <= weight <= 1:
        raise ArgumentError(f"weight={weight}: expected a share in [0, 1]")
    supervised = Stream(sources.demonstrations(task, demonstrations), weight * objectives.likelihood("token"))
    own = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=(1 - weight) * objectives.clipped(clip, clip, "response"),
    )
    return Recipe("mix", [Stage([supervised, own], linear(lr))], Budget(generated_tokens=100_000))
