"""REINFORCE leave-one-out.

    A_i = r_i - mean of the other samples' r = N/(N-1) (r_i - group mean)
    J = - mean_i A_i sum_t log pi(y_it)        (a sequence is one action: a sum, never divided by its length)
    with kl > 0:  r_i <- r_i - kl sum_t (log pi - log start)

2402.14740; estimator of Kool et al. 2019. No standard deviation. Deviates: kl is 0 by default (verifiable rewards);
with more than one update a step the sequence ratio weighs the gradient and is not clipped.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="REINFORCE leave-one-out",
    arxiv="2402.14740",
    family="rl",
    summary="Policy gradient on whole responses with the other samples' mean as baseline.",
    needs=("verifier",),
)


def rloo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    kl: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. kl: weight of the KL to the start policy inside the reward.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.subtract_kl("start", kl), credit.leave_one_out()),
        objective=objectives.score_function(),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("rloo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
