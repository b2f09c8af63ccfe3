"""Negative sample augmentation: what is right in wrong responses is not pushed down.

    e_i = r_i - beta log(pi / sampler)(y_i), less its mean over the group
    J = - mean over responses of sum_t sg(e_i w_it) log pi_t
    w_it = mining where e_i < 0 and token t is in a right step of a wrong response, else 1

2505.14403; the loss from memory of the paper. mining = 1 changes nothing, 0 leaves right steps alone, below 0 praises
them. The log is drawn once from the start policy. Deviates: the task itself says which steps are right (exact, where
the paper has a segmenter, a judge and a process reward model that must agree); ``flip`` turns a share of its labels
round.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Negative sample augmentation",
    arxiv="2505.14403",
    family="rl",
    summary="Policy gradient on logged responses that spares the right steps of wrong ones.",
    needs=("verifier", "steps"),
)


def bcpg_nsa(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    beta: float = 0.1,
    mining: float = 0.0,
    flip: float = 0.0,
    draw_share: float = 0.5,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: a step. beta: strength of the tie to the sampler. mining: share of the blame that right
    steps keep (1: all, below 0: praise). flip: share of step labels turned round. draw_share, epochs: share of the
    budget for the log, and most passes over it. lr: peak learning rate (scaled to the model)."""
    judged = chain(signals.verified(task), signals.steps(task, flip))
    draw = Stream(sources.sampled(task, prompts, samples), None, judged, store="log")
    log = sources.stored("log", sources.whole_groups(), prompts, epochs, samples)
    fit = Stream(log, objectives.residual_gradient(beta, "spared"), credit=credit.spare_right_steps(mining))
    stages = [Stage([draw], linear(lr), draw_share, name="draw"), Stage([fit], linear(lr), name="fit")]
    return Recipe("bcpg_nsa", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
