"""DAPO: four changes to GRPO.

    A_i = (r_i - mean) / (std + eps); asymmetric clip [1-low, 1+high]; mean over the step's tokens; no KL
    groups of equal reward are dropped and others drawn in their place, at most ``rounds`` draws
    soft overlong penalty: 0 up to T - soft tokens, then linearly to -1 at T = longest response

2503.14476. Every draw is charged, kept or not. Deviates: rewards are the task's (0 and 1, not -1 and +1: centring
makes them equivalent); the filter looks at the verifier's reward, before the length penalty; the refill is capped, and
a step that stays short is used as it is.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="DAPO",
    arxiv="2503.14476",
    family="rl",
    summary="GRPO with an asymmetric clip, token mean, refilled groups and a soft length penalty.",
    needs=("verifier",),
)


def dapo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    low: float = 0.2,
    high: float = 0.28,
    rounds: int = 3,
    soft: int = 0,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a round. low, high: clip below and above. rounds: most draws a step.
    soft: tokens before the longest response where the length penalty begins (0: none).
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    longest = task.max_new_tokens
    shaping = [credit.penalise_length(longest - soft, longest)] if soft else []
    draw, verdict = sources.sampled(task, prompts, samples), signals.verified(task)
    stream = Stream(
        source=sources.refill(draw, verdict, credit.keep_mixed(), rounds),
        credit=chain(*shaping, credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(low, high, "token"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("dapo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
