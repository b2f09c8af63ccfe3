"""Optimal advantage regression, A*-PO.

    1. N responses of the start policy to each prompt, once:  V*(x) = b1 log mean exp(r / b1)
    2. one response of the current policy a prompt:  J = mean ( b2 D(y) + V*(x) - r )^2 / 2 b2
       D(y) = sum_t (log pi - log start)

2505.20686. The gradient is REINFORCE's with a baseline that never moves and the KL inside the reward. V* is the value
of the problem with weight b2 only if b1 = b2; b1 to infinity makes it the mean, b1 to 0 the maximum. Deviates: the
square is divided by 2 b2, which leaves the direction and frees the step from b2; stage 1 takes ``draw_share`` of the
budget, and stage 2 draws among the prompts that it reached. ``solved`` leaves out prompts that the start policy never
got right, as TRL can; the authors' scripts do not.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Optimal advantage regression",
    arxiv="2505.20686",
    family="rl",
    summary="Regresses log-ratios of one response a prompt on its reward less a value fixed beforehand.",
    needs=("verifier",),
)


def a_star_po(
    task: Task,
    *,
    prompts: int = 32,
    samples: int = 8,
    b1: float = 0.5,
    b2: float = 0.001,
    draw_share: float = 0.5,
    solved: bool = False,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts: a step. samples: of the start policy to each prompt, once. b1: of the values (small: the best
    sample; large: the mean). b2: strength of the tie to the start policy. draw_share: share of the budget for the
    values. solved: only prompts with a right sample. lr: peak learning rate (scaled to the model)."""
    verdict = signals.verified(task)
    reference = Stream(sources.sampled(task, prompts, samples), None, verdict, store="reference")
    own = Stream(
        source=sources.sampled(task, prompts, 1, among=sources.prompts_of("reference", solved)),
        signal=verdict,
        credit=credit.subtract_soft_value("reference", b1),
        objective=objectives.residual(b2, "start"),
    )
    stages = [Stage([reference], linear(lr), draw_share, name="values"), Stage([own], linear(lr), name="regress")]
    return Recipe("a_star_po", stages, Budget(generated_tokens=100_000))
