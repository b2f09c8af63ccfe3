"""Regularised policy gradients: off-policy gradients of reward less a divergence from the old policy, exactly.

    A_i = r_i - group mean;  w = pi / old per token, samples from old;  weight of grad log pi:
    reverse   KL(pi || old)  w (A - beta (log w + 1)),   not normalised  w (A - beta log w)
    forward   KL(old || pi)  w A + beta,                 not normalised  w A + beta (1 - w)
    J = mean over tokens of PPO's clipped -w A (dual clip c) + beta {w log w, w log w - w + 1; -log w, w - log w - 1}

2505.17508. J is the differentiable form; without the clip (low = 1, high = inf, dual = 0) its gradient is the weight
above. Derived from the paper: the released actor calls PPO's loss. Deviates: groups of equal reward are not replaced;
w is a token's, which is exact for one-token responses only.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

SUMMARY = "Policy gradient with an importance-corrected divergence from the policy before the update."
ABOUT = About("Regularised policy gradients", "2505.17508", "rl", SUMMARY, ("verifier",))


def rpg(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    divergence: Literal["reverse", "forward"] = "reverse",
    normalised: bool = False,
    beta: float = 1e-4,
    low: float = 0.2,
    high: float = 0.28,
    dual: float = 10.0,
    epochs: int = 1,
    minibatches: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. divergence: "reverse" or "forward". normalised: whether policies are
    taken to sum to 1. beta: its weight. low, high, dual: clip below, above, of wrong ones (0: none).
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    estimator: objectives.Estimator = "k1" if normalised else "k3"
    distance = objectives.kl("old", estimator, "token", forward=divergence == "forward", corrected=True)
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=credit.center(),
        objective=objectives.clipped(low, high, "token", dual or None) + beta * distance,
        updates=Updates(epochs, minibatches),
    )
    return Recipe("rpg", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
