"""Lite PPO, and the grid of choices it was found in.

    A_i = (r_i - group mean) / (std of all rewards of the step + eps)
    J = mean over tokens of max(-A_i rho_it, -A_i clip(rho_it, 1-low, 1+high))

2508.08221. The defaults are Lite PPO; each axis of the grid is an argument. ``normalisation``: "none" A = r, "group"
mean and deviation of the group, "batch" both of the step, "mixed" as above. The deviation is of the raw rewards, over
every group drawn. ``overlong``: responses of the longest length keep their reward but carry no loss. Deviates: no top-p
or top-k while sampling, so that the policy that is trained is the one that sampled.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    "Lite PPO", "2508.08221", "rl", "Group mean, deviation of the step, token mean, plain clip.", ("verifier",)
)


def lite_ppo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    normalisation: Literal["none", "group", "batch", "mixed"] = "mixed",
    low: float = 0.2,
    high: float = 0.2,
    over: Literal["token", "response"] = "token",
    overlong: bool = False,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. normalisation: of rewards: "none", "group", "batch" or "mixed". low, high:
    clip below and above. over: mean over "token" or "response". overlong: leave truncated responses out of the loss.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    advantage = {
        "none": [credit.subtract(0.0)],
        "group": [credit.center(), credit.divide_by_std()],
        "batch": [credit.center("batch"), credit.divide_by_std(pool="batch")],
        "mixed": [credit.center(), credit.divide_by_std(pool="batch")],
    }[normalisation]
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(*advantage, *[credit.mask_truncated()] * overlong),
        objective=objectives.clipped(low, high, over),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("lite_ppo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
