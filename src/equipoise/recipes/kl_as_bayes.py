"""KL-regularised reinforcement learning as inference, fitted by the forward KL.

    p*(y) = start(y) exp(r(y) / beta) / Z(x)      the optimum of E[r] - beta KL(pi || start)
    J = - mean over responses of sg(N w_i) log pi(y_i),   w_i proportional to p*(y_i) / q(y_i), sum 1 over a prompt's N

2205.11275 shows that both divergences have the same target p*; this minimises KL(p* || pi), a distributional policy
gradient. q is the current policy, and then N w_i - 1 has less variance and the same mean; or with ``proposal``
"start" the start policy itself, and then w_i depends on the reward alone. Z is estimated from a prompt's own samples,
which biases w by O(1/N). The exact p* is ``TabularEngine.target``. beta = 0 would be a point mass.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="KL-regularised RL as inference",
    arxiv="2205.11275",
    family="rl",
    summary="Fits the optimum of KL-regularised RL, start times exp(r / beta), by weighted likelihood.",
    needs=("verifier",),
)


def kl_as_bayes(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    beta: float = 0.2,
    proposal: Literal["current", "start"] = "current",
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. beta: temperature of exp(r / beta), strength of the tie to the start
    policy. proposal: who samples, "current" or "start". lr: peak learning rate (scaled to the model)."""
    if samples < 2 or proposal not in ("current", "start"):
        raise ArgumentError(
            f"samples={samples}, proposal={proposal!r}: weights are normalised over a prompt's samples; expected at "
            "least 2, drawn by 'current' or 'start'"
        )
    stream = Stream(
        source=sources.sampled(task, prompts, samples, policy=proposal),
        signal=signals.verified(task),
        credit=credit.posterior_weights(beta, "start", centred=proposal == "current"),
        objective=objectives.score_function(),
    )
    return Recipe("kl_as_bayes", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
