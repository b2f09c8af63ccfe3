"""Clipped importance weights: the ratio only weighs, so every token keeps its gradient.

    A_i = (r_i - mean) / (std + eps);  the deviation of the group, or of all the step's rewards
    J = - (1/tokens) sum_it sg(clip(rho_it, lowest, highest)) A_i log pi(y_it)

2506.13585 bounds the ratio from above only; 2510.13786 has highest = 5 and the step's deviation. Libraries differ:
here, as there, the bounds are the ratios themselves, not distances from 1. With one update a step all ratios are 1 and
the gradient is the score function's; there is no trust region, so keep the updates few.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Clipped importance weights",
    arxiv="2506.13585",
    family="rl",
    summary="Policy gradient with bounded, detached importance weights: no token loses its gradient.",
    needs=("verifier",),
)


def cispo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    lowest: float = 0.0,
    highest: float = 5.0,
    deviation: Literal["group", "batch"] = "group",
    epochs: int = 1,
    minibatches: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. lowest, highest: bounds of the ratio, around 1. deviation: that advantages
    are divided by, of the "group" or the "batch". epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std(pool=deviation)),
        objective=objectives.reweighted((lowest, highest)),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("cispo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
