"""Advantages divided by a Beta density that is fitted to the step's pass rates.

    p_x = mean reward of prompt x; m, v = mean and unbiased variance of p_x over the step
    a = (m(1-m)/v - 1) m,  b = (m(1-m)/v - 1)(1-m);  alpha = max(1, 1 + a/3),  beta = max(1, 1 + b/3)
    A_i = (r_i - p_x) min(1 / BetaPDF(p_x; alpha, beta), limit)
    J = mean over tokens of max(-A_i rho_it, -A_i clip(rho_it, 1-clip, 1+clip))

2506.02864 (id from memory), following the authors' code. alpha = beta = 1 leaves r - p; alpha = beta = 3/2 is GRPO's
division by sqrt(p(1-p)) up to the constant pi/8. Deviates: one reward (the paper averages the advantages of several);
``limit`` is 10 where the code has a million, so that no rare prompt rules a small step; where the rates do not vary, or
the step is one prompt, the density is uniform.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Beta normalisation",
    arxiv="2506.02864",
    family="rl",
    summary="Policy gradient with rewards centred, and scaled by how rare the prompt's pass rate is in the step.",
    needs=("verifier",),
)


def bnpo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    limit: float = 10.0,
    clip: float = 0.2,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. limit: largest factor of an advantage. clip: of the ratio, either side.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_density(limit)),
        objective=objectives.clipped(clip, clip, "token"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("bnpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
