"""Dr. GRPO: GRPO without the two divisions that bias it.

    A_i = r_i - group mean                     (not divided by the standard deviation)
    J = (1/(N T)) sum_i sum_t max(-A_i rho_it, -A_i clip(rho_it, 1-clip, 1+clip)),  T = longest response, a constant

2503.20783. Without the length in the denominator long wrong answers are no longer favoured. Its loss is smaller than
GRPO's by about mean length / T: compare at tuned learning rates.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Dr. GRPO",
    arxiv="2503.20783",
    family="rl",
    summary="GRPO without dividing by the group's deviation or the response's length.",
    needs=("verifier",),
)


def dr_grpo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. clip: of the ratio, either side. epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=credit.center(),
        objective=objectives.clipped(clip, clip, float(task.max_new_tokens)),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("dr_grpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
