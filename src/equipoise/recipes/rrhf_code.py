"""Rank responses to align: a hinge that orders likelihoods as scores are ordered.

    s_i = sum_t log pi(y_it) / |y_i|^length
    J = mean over prompts of  rank * sum over pairs r_i > r_j of max(0, s_j - s_i) - mean_t log pi of the best response

RRHF, 2304.05302, applied to code optimisation in 2312.05657 (number from memory). The score is the task's: any
ordering of more than two levels will do, such as tests passed and operations saved. Follows the authors' code of RRHF
for the loss, but compares within each prompt (the code indexes one prompt a step). The candidates are drawn once from
the start policy; prompts whose candidates all score the same are left out, for there is nothing to rank.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Ranking responses by score",
    arxiv="2312.05657",
    family="rl",
    summary="Hinge ranking of length-normalised likelihoods by score, plus likelihood of the best response.",
    needs=("verifier",),
)


def rrhf_code(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    rank: float = 100.0,
    length: float = 1.0,
    draw_share: float = 0.5,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: a step. rank: weight of the ranking term. length: power of the length that divides a
    log-likelihood. draw_share, epochs: share of the budget for the candidates, and most passes over them. lr: peak
    learning rate (scaled to the model)."""
    if samples < 2:
        raise ArgumentError(f"samples={samples}: candidates are ranked against each other; expected at least 2")
    draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), store="candidates")
    mixed = sources.stored("candidates", sources.whole_groups(mixed=True), prompts, epochs, samples)
    stages = [
        Stage([draw], linear(lr), draw_share, name="draw"),
        Stage([Stream(mixed, objectives.ranked(rank, length))], linear(lr), name="fit"),
    ]
    return Recipe("rrhf_code", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
