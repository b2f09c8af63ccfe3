"""Hierarchical budgets: responses told different lengths, compared within and across the lengths.

    each prompt: ``samples`` responses for each budget b, which begin with a sentence that states b (not trained)
    right, l <= L:  r = min(4 cos(pi l / 2L) - |l - b| / L, 4 cos(pi b / 2L));  wrong 0;  unreadable -1
    A_i = (r_i - mean) / (std + 1e-6) over all budgets  +  mean r under b_i - 4 cos(pi b_i / 2L)
    J = mean_i (1/|y_i|) sum over own t of max(-A_i rho_t, -A_i clip(rho_t, 1 - low, 1 + high))

2507.15844. The paper is followed: the released code adds the second term twice. That term is one number a budget and
never above 0, so A is not centred. L: the task's longest response; l counts own tokens. Deviates: budgets are shares of
L (those of 512, 1024, 2048, 2560 of 4096); the verifier does not read the sentence; no sentence is used in evaluation.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Hierarchical budget policy optimisation",
    arxiv="2507.15844",
    family="rl",
    summary="Right answers pay by their length and a stated budget; compared within and across budgets.",
    needs=("verifier",),
)


def hbpo(
    task: Task,
    *,
    prompts: int = 4,
    samples: int = 4,
    budgets: tuple[float, ...] = (0.125, 0.25, 0.5, 0.625),
    sentence: str = "I will answer in {budget} tokens. ",
    low: float = 0.2,
    high: float = 0.28,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts: drawn a step. samples: of each budget. budgets: shares of the longest response. sentence: how a
    response begins; {budget} becomes the number of tokens. low, high: clip of the ratio below and above.
    lr: peak learning rate (scaled to the model)."""
    longest = task.max_new_tokens
    stream = Stream(
        source=sources.announced(task, prompts, samples, budgets, sentence),
        signal=chain(signals.verified(task), credit.pay_by_budget(longest)),
        credit=credit.compare_budgets(longest),
        objective=objectives.clipped(low, high),
    )
    return Recipe("hbpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
