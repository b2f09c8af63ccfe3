"""Discriminative constrained optimisation.

    s(y) = mean_t log pi_t ("logp") or mean_t rho_t ("ratio"), never clipped
    J = - (1/groups) sum [mean of right s - tau log mean of wrong exp(s / tau)] + sg(beta max(0, K - delta)) K

K = mean over the update's tokens of log old - log pi, an estimate of KL(old || pi). 2505.12366; ``tau`` = inf is the
variant with a plain mean of the wrong ones. Groups of one kind have no J and count in 1/groups. Followed is the
released code for "logp"; its "ratio" raises an error, so there the paper.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Discriminative constrained optimisation",
    arxiv="2505.12366",
    family="rl",
    summary="Sets right responses apart from wrong ones of the same prompt; the KL to the old policy is limited.",
    needs=("verifier",),
)


def disco(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    score: Literal["logp", "ratio"] = "logp",
    tau: float | None = None,
    delta: float = 1e-4,
    beta: float = 1e3,
    epochs: int = 1,
    minibatches: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. score: of a response, "logp" or "ratio". tau: temperature over wrong ones;
    left out 10 for "logp", 1 for "ratio". delta: KL that is free. beta: weight beyond it.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    if samples < 2:
        raise ArgumentError(
            f"samples={samples}: right and wrong responses to a prompt are compared; expected at least 2"
        )
    apart = objectives.separate(score, tau if tau is not None else {"logp": 10.0, "ratio": 1.0}[score])
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=credit.pass_rate(),
        objective=apart + objectives.keep_within("old", delta, beta),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("disco", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
