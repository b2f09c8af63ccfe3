"""REINFORCE with a baseline.

    A_i = r_i - b        b: a mean of rewards that says nothing about y_i's own tokens, or nothing at all
    J = - mean_i A_i sum_t log pi(y_it)        (a sequence is one action: a sum, never divided by its length)

Williams 1992. ``baseline``: "batch" the step's mean, "others" the same without y_i, "prompt" the mean of the prompt's
other samples (RLOO), "running" that of earlier steps, "greedy" the reward of the policy's greedy response (ReMax,
2310.10505), one more to draw, "none" 0. With "batch" y_i is in its own mean: over M responses that shrinks the expected
gradient by 1 - 1/M. ``whitened`` also divides by the deviation over the step's tokens.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="REINFORCE with a baseline",
    arxiv=None,
    family="rl",
    summary="Policy gradient on whole responses, rewards compared with a mean; one sample a prompt will do.",
    needs=("verifier",),
)


def reinforce(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    baseline: Literal["batch", "others", "prompt", "running", "greedy", "none"] = "batch",
    whitened: bool = False,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. baseline: what a reward is compared with: "batch", "others", "prompt",
    "running", "greedy" or "none". whitened: scale advantages to variance 1. epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    draw, verdict = sources.sampled(task, prompts, samples), signals.verified(task)
    compared = {
        "batch": credit.center("batch"),
        "others": credit.leave_one_out("batch"),
        "prompt": credit.leave_one_out(),
        "running": credit.subtract_running_mean(),
        "greedy": credit.subtract_greedy(task),
        "none": credit.subtract(0.0),
    }[baseline]
    stream = Stream(
        source=draw,
        signal=verdict,
        credit=chain(compared, credit.whiten()) if whitened else compared,
        objective=objectives.score_function(),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("reinforce", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
