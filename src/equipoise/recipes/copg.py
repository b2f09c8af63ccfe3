"""Contrastive policy gradient.

    J = mean over pairs of a prompt's responses of ( (r - r') - beta (D(y) - D(y')) )^2 / 4 beta
    D(y) = sum_t (log pi - log start)

2406.19185. All pairs of a group at once: its gradient is that of leave-one-out on r - beta D, whoever sampled, and
its minimum is pi proportional to start exp(r / beta). Equal rewards still pull D(y) and D(y') together. With rewards
of +1/4 and -1/4 it is IPO. By default the log is drawn once from the start policy, within ``draw_share`` of the
budget, and read ``epochs`` times at most; ``online`` draws from the current policy instead. Divided by 4 beta, so the
step does not depend on beta.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Contrastive policy gradient",
    arxiv="2406.19185",
    family="rl",
    summary="Regresses differences of log-ratios on differences of rewards, on logged or own responses.",
    needs=("verifier",),
)


def copg(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    beta: float = 0.1,
    online: bool = False,
    draw_share: float = 0.5,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: a step. beta: strength of the tie to the start policy. online: draw from the current
    policy. draw_share, epochs: else, share of the budget for the log, and most passes over it. lr: peak learning
    rate (scaled to the model)."""
    objective, verdict = objectives.pairwise_residual(beta, "start"), signals.verified(task)
    if samples < 2:
        raise ArgumentError(f"samples={samples}: responses are compared in pairs; expected at least 2")
    drawn = sources.sampled(task, prompts, samples)
    if online:
        return Recipe(
            "copg", [Stage([Stream(drawn, objective, verdict)], linear(lr))], Budget(generated_tokens=100_000)
        )
    log = sources.stored("log", sources.whole_groups(), prompts, epochs, samples)
    stages = [
        Stage([Stream(drawn, None, verdict, store="log")], linear(lr), draw_share, name="draw"),
        Stage([Stream(log, objective)], linear(lr), name="fit"),
    ]
    return Recipe("copg", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
