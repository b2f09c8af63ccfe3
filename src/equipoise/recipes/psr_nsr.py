"""Learning from right samples, from wrong ones, or from both with unlike weights.

    A_i = weight_right where y_i is right, -weight_wrong where it is wrong; no baseline, no deviation
    J = mean over tokens of max(-A rho, -A clip(rho, 1-clip, 1+clip)) - entropy H(pi),  tokens of weight above 0 only

2506.01347: positive samples alone are (1, 0), negative alone (0, 1), W-REINFORCE (0.1, 1), the default. Responses of
weight 0 leave the denominator, as in the released code: the step stays as large when wrong samples become rare.
Deviates: the released scripts have an entropy bonus of 0.001; here it is 0 by default, so that methods compare alike.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Positive and negative sample reinforcement",
    arxiv="2506.01347",
    family="rl",
    summary="Raises right samples, lowers wrong ones, by weights of their own and without a baseline.",
    needs=("verifier",),
)


def psr_nsr(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    weight_right: float = 0.1,
    weight_wrong: float = 1.0,
    clip: float = 0.2,
    entropy: float = 0.0,
    epochs: int = 1,
    minibatches: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. weight_right, weight_wrong: of right and wrong samples (0: left out).
    clip: of the ratio, either side. entropy: weight of an entropy bonus. epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=credit.by_outcome(weight_right, weight_wrong),
        objective=objectives.clipped(clip, clip, "token") + -entropy * objectives.entropy("token"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("psr_nsr", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
