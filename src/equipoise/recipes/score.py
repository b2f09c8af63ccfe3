"""Self-correction by reinforcement learning: two attempts in one response, with an instruction between them.

    stage I:   maximise E[r(y2)] - kl_first KL(pi || start) on the first attempt's tokens; no reward for y1
    stage II:  maximise E[r(y1)] + E[r(y2) + progress (r(y2) - r(y1))] - kl KL(pi || start) on both
    J = - mean over responses of sum_t A_k(t) log pi_t, A_k of turn k's own reward (discount 0), + weight * mean k2

2409.12917. Each attempt's tokens see that attempt's reward only: r(y1) enters A_2 through the progress and nothing of
y2 enters A_1. ``baseline`` subtracts the group's mean of each turn's reward (the paper: none). No released code; k2,
whose gradient is KL(pi || start)'s, is this recipe's choice, as is the share of the budget for stage I. Deviates:
KL is to the policy when training began, in both stages.
"""

from math import inf

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Self-correction by RL (SCoRe)",
    arxiv="2409.12917",
    family="rl",
    summary="Two attempts a response; the second is rewarded for what it gains over the first.",
    needs=("verifier",),
)


def score(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    instruction: str | None = None,
    progress: float = 10.0,
    kl: float = 0.01,
    kl_first: float = 0.1,
    first_share: float = 0.3,
    baseline: bool = False,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. instruction: said between the attempts, {} for the question (none: as the
    task asks again, else that there may be an error). progress: weight of r(y2) - r(y1). kl: weight of the KL in stage
    II. kl_first: of the first attempt's in stage I. first_share: of the budget for stage I, 0 for none. baseline:
    subtract the group's mean of each turn. lr: peak learning rate (scaled to the model)."""
    if not 0 <= first_share < 1:
        raise ArgumentError(f"first_share={first_share:g}: the share of stage I; expected a number in [0, 1)")
    say = sources.said_between(task, instruction, "There may be an error above. Find it and answer again.")
    draw, verdict = sources.conversed(task, prompts, samples, say), signals.turns(task)
    gradient = objectives.clipped(1.0, inf, 1.0)
    held = gradient + kl_first * objectives.kl("base", "k2", at="first_turn")
    free = gradient + kl * objectives.kl("base", "k2")
    second = Stream(draw, held, verdict, credit.by_turn(0.0, 0.0, baseline))
    both = Stream(draw, free, verdict, credit.by_turn(1.0, progress, baseline))
    stages = [Stage([second], linear(lr), first_share, name="second"), Stage([both], linear(lr), name="both")]
    return Recipe("score", stages if first_share else stages[1:], Budget(generated_tokens=100_000))
