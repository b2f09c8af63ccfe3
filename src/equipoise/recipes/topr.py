"""Tapered off-policy REINFORCE.

    A_i = r_i - baseline;  w_i = 1 where A_i >= 0, else min(1, pi(y_i) / mu(y_i)) of the whole response
    J = - mean_i sg(w_i) A_i sum_t log pi(y_it)

2503.14286; mu sampled the response, by its recorded log-probs. A wrong response fades once it has become unlikely, so
many updates on old samples do not diverge and no KL is needed. Each step draws and then trains ``epochs`` times; with
``log_share`` that share of the budget is spent on one log first, which is then trained on ``epochs`` times. No code was
released; summaries were followed. Rewards of 0 and 1 with the baseline b are half of -1 and 1 with 2b - 1.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Tapered off-policy REINFORCE",
    arxiv="2503.14286",
    family="rl",
    summary="Policy gradient on old samples; wrong ones weigh less the less likely they have become.",
    needs=("verifier",),
)


def topr(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    baseline: float = 0.5,
    taper: bool = True,
    log_share: float = 0.0,
    epochs: int = 4,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. baseline: off the reward. taper: off, wrong samples weigh 1 (REINFORCE
    on old samples). log_share: of the budget, for one log of samples to train on (0: sample anew each step). epochs:
    passes over a step's samples, or over the log. minibatches: updates a pass of a step's samples. lr: peak learning
    rate (scaled to the model)."""
    tapered = objectives.reweighted((1, 1), (0, 1) if taper else (1, 1), 1.0, ratio="product", against="recorded")
    draw, verdict, compared = sources.sampled(task, prompts, samples), signals.verified(task), credit.subtract(baseline)
    if not log_share:
        stream = Stream(draw, tapered, verdict, compared, Updates(epochs, minibatches))
        return Recipe("topr", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
    log = Stage([Stream(draw, None, verdict, store="log")], linear(lr), log_share, name="draw")
    fit = Stage(
        [Stream(sources.stored("log", list, prompts, epochs, samples), tapered, credit=compared)],
        linear(lr),
        name="fit",
    )
    return Recipe("topr", [log, fit], Budget(generated_tokens=100_000, trained_tokens=100_000))
