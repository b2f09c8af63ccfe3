"""Negative-aware fine-tuning: supervised learning on right and wrong samples alike.

    q = share of right responses in the group, clamped to [.02, .98]; groups of one kind are dropped
    right: l_t = -log rho_t        wrong: l_t = -log ((1 - q rho_t) / (1 - q)), floored with a straight-through gradient
    J = sum_i w(q) sum_t l_t / (T x responses),  T = longest response, a constant

2505.18116, following the authors' code. At pi = old and w = 1-q the gradient is that of A = r - q (Dr. GRPO); at
w = sqrt((1-q)/q) that of GRPO's A. Deviates: T is the task's longest response where the code has 1000.
Of graded rewards it knows only whether the verifier calls a response right.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Negative-aware fine-tuning",
    arxiv="2505.18116",
    family="rl",
    summary="Likelihood of right samples, and of an implied negative policy on wrong ones.",
    needs=("verifier",),
)


def nft(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    floor: float = 1.0,
    weight: Literal["equal", "hard", "std"] = "hard",
    epochs: int = 1,
    minibatches: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. floor: smallest implied ratio of a wrong token. weight: of a prompt:
    "equal", "hard" (1-q) or "std". epochs, minibatches: updates a step. lr: peak learning rate (scaled)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.keep_mixed("status"), credit.pass_rate()),
        objective=objectives.implicit_negative(float(task.max_new_tokens), floor, weight),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("nft", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
