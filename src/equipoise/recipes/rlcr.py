"""Reinforcement learning with calibration rewards: answers with a confidence that is worth believing.

    response: an answer, then a confidence q in [0, 1] (tasks confident:<task>); c: 1 right, 0 wrong
    form paper  r = c - (q - c)^2, -1 without q        form code  r = (1 + c + 1 - (q - c)^2) / 2, 0 without q
    A_i = r_i - group mean (no deviation: it would magnify the Brier term in easy groups)
    J = mean_i (1/|y_i|) sum_t -A_i rho_it, one update a step, no KL

2507.16806. With P(right) = p, E[r] of form paper is p^2 - (q - p)^2: greatest at q = p and rising in p, so accuracy is
never traded for calibration. Form code is the released reward. Form none (r = c) is the binary baseline, alike in all
else. Deviates: one percentage at the end instead of tags and an analysis, and what the paper asks of the prompt is
taught by demonstrations with meaningless confidences until ``warm`` of the budget is spent.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Calibration rewards",
    arxiv="2507.16806",
    family="rl",
    summary="Rewards right answers and honest confidences with a proper score.",
    needs=("verifier", "demonstrations"),
)


def rlcr(
    task: Task,
    *,
    form: credit.Form = "paper",
    warm: float = 0.2,
    demonstrations: int = 32,
    prompts: int = 8,
    samples: int = 8,
    temperature: float = 1.0,
    lr: float | None = None,
) -> Recipe:
    """Args: form: of the reward, "paper", "code" or "none". warm: share of the budget for teaching the form, or 0.
    demonstrations: a step of that. prompts, samples, temperature: of drawing. lr: peak learning rate (scaled)."""
    if not 0 <= warm < 1:
        raise ArgumentError(f"warm={warm:g}: expected a share of the budget in [0, 1)")
    teach = [Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))] if warm else []
    own = Stream(
        source=sources.sampled(task, prompts, samples, temperature),
        signal=signals.verified(task),
        credit=chain(credit.add_brier(form), credit.center()),
        objective=objectives.clipped(0.2, 0.2, "response"),
    )
    stages = [Stage([s], linear(lr, scale=2.0), warm, name="warm") for s in teach] + [Stage([own], linear(lr))]
    return Recipe("rlcr", stages, Budget(generated_tokens=100_000, trained_tokens=200_000))
