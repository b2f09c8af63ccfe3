"""Direct preference optimisation.

    J = - mean over pairs of log sigmoid(beta (D(w) - D(l))),  D(y) = log pi(y) - log start(y)

2305.18290. Log-probs are sums over the response's tokens. The data's own pairs are used where the task has them (one
preference label each time shown). Otherwise pairs of a right and a wrong response are drawn once from the start
policy, within ``draw_share`` of the budget, charged like all sampling.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Direct preference optimisation",
    arxiv="2305.18290",
    family="preference",
    summary="Raises the margin of preferred over other responses, relative to the start policy.",
    needs=("pairs or verifier",),
)


def dpo(
    task: Task,
    *,
    pairs: int = 32,
    beta: float = 0.1,
    per_token: bool = False,
    prompts: int = 16,
    samples: int = 8,
    draw_share: float = 0.5,
    cap: int = 2,
    epochs: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: pairs: a step. beta: strength of the tie to the start policy. per_token: divide D by the length.
    prompts, samples, draw_share, cap: for drawing pairs when the data has none (cap: pairs a prompt).
    epochs: most passes over drawn pairs. lr: peak learning rate (scaled to the model)."""
    objective = objectives.preference(beta, "start", per_token)
    schedule = linear(lr, scale=0.5)
    if task.pair is not None:
        return Recipe("dpo", [Stage([Stream(sources.pairs(task, pairs), objective)], schedule)], Budget(labels=5_000))
    draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), store="drawn")
    drawn = sources.stored("drawn", sources.right_wrong_pairs(cap), pairs, epochs)
    stages = [Stage([draw], schedule, draw_share, name="draw"), Stage([Stream(drawn, objective)], schedule, name="fit")]
    return Recipe("dpo", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
