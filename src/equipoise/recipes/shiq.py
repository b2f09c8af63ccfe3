"""Shifted-Q: Bellman residuals on the logits.

    J = mean over responses of sum_t [ sum_(u>=t) (r_u - beta D_u) - beta (v_t - v0_t) ]^2 / 2 beta
    D_u = log pi - log start of token u;  v_t, v0_t = logsumexp of the logits of pi and of start before token t

2505.11081; the final form from memory of the paper, consistent with a zero residual at the KL-regularised optimum.
Logits are soft Q up to a shift, so no value network and no pairs: single logged responses. At pi = start the residual
is the reward to go. The logits are read before normalisation and in float32, at the temperature that sampled (1). The
log is drawn once from the start policy. Divided by 2 beta; summed, not averaged, over t, which is open in what could
be read.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Shifted-Q",
    arxiv="2505.11081",
    family="rl",
    summary="Multi-step Bellman residuals on the policy's own logits, from single logged responses.",
    needs=("verifier",),
)


def shiq(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    beta: float = 0.1,
    draw_share: float = 0.5,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: a step. beta: strength of the tie to the start policy. draw_share, epochs: share of the
    budget for the log, and most passes over it. lr: peak learning rate (scaled to the model)."""
    draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), store="log")
    log = sources.stored("log", sources.whole_groups(), prompts, epochs, samples)
    stages = [
        Stage([draw], linear(lr), draw_share, name="draw"),
        Stage([Stream(log, objectives.logit_residual(beta, "start"))], linear(lr), name="fit"),
    ]
    return Recipe("shiq", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
