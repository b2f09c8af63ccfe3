"""Direct Q-function optimisation: soft actor-critic on tokens.

    G_t = r_t - beta D_t + (1-lam) V_(t+1) + lam G_(t+1),   D_t = log pi - log start
    J = mean over responses of sum_t w_t [ (beta D_t - sg(r_t + G_(t+1) - V_t))^2 / 2 beta + vf/2 (V_t - sg(G_t))^2 ]

2410.09302; formulae from memory of the paper: Q - V is beta D_t. w_t = min(1, product over u > t of pi / sampler),
because the logged return is not pi's; ``corrected`` turns it off. One-token responses give DRO's (r - V - beta D)^2.
Deviates: V is a head on the policy's body that starts at 0, not a network of its own; the log is drawn once from the
start policy; sums over t.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Direct Q-function optimisation",
    arxiv="2410.09302",
    family="rl",
    summary="Token-level soft actor-critic on logged responses, with the policy's log-ratios as advantages.",
    needs=("verifier",),
)


def dqo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    beta: float = 0.03,
    lam: float = 1.0,
    vf: float = 1.0,
    corrected: bool = True,
    draw_share: float = 0.5,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: a step. beta: strength of the tie to the start policy. lam: of the lambda-returns. vf:
    weight of the value error. corrected: weigh by the bounded ratio of the tokens to come. draw_share, epochs:
    share of the budget for the log, and most passes over it. lr: peak learning rate (scaled to the model)."""
    draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), store="log")
    log = sources.stored("log", sources.whole_groups(), prompts, epochs, samples)
    objective = objectives.value_residual(beta, lam, vf, corrected, "start")
    stages = [
        Stage([draw], linear(lr), draw_share, name="draw"),
        Stage([Stream(log, objective)], linear(lr), name="fit"),
    ]
    return Recipe("dqo", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
