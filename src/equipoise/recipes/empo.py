"""Entropy-minimised policy optimisation: answers that the policy's own samples agree on, without labels.

    r_i = |samples with the answer of i| / N;  0 without an answer, and for groups with H outside [low, high), where
          H = -sum_c p_c log p_c / log N over clusters c of equal answers, an unreadable one a cluster of its own
    A_i = (r_i - mean) / (std + 1e-4);  J = mean_i (1/|y_i|) sum_t -A_i rho_it, one update a step, no KL

2504.05812 (id from memory). E[r] tends to sum_c P(c)^2: agreement and not truth, so wrong majorities are reinforced.
Where code and paper differ the authors' TRL version is followed: only the upper cut (all answers different); the
band of the paper is ``low`` and ``high``. Deviates: answers are equal if the verifier reads the same text (no
clustering that depends on order), and a truncated response has none.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Entropy-minimised policy optimisation",
    arxiv="2504.05812",
    family="rl",
    summary="Rewards answers by the share of samples that agree with them; uses no labels.",
    needs=("verifier",),  # it reads the answers; what is right is not looked at
)


def empo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    low: float = 0.0,
    high: float = 1.0,
    unparsed: float = 0.0,
    over: objectives.Over = "response",
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. low, high: semantic entropy, as a share of the largest, of groups that earn
    rewards: low <= H < high. unparsed: reward of a response without an answer. over: mean over "response" or "token".
    lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.agreement(task, low, high, unparsed),
        credit=chain(credit.center(), credit.divide_by_std(eps=1e-4)),
        objective=objectives.clipped(0.2, 0.2, over),
    )
    return Recipe("empo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
