"""Queries from questions: imitation of traces, then reinforcement by execution.

    1. J = token mean of -log pi on demonstrations (what each clause does, then the query)
    2. r = execution + words F1(query, gold) + form;  GRPO with A_i = (r_i - mean) / (std + eps)

2505.00016, of which only the abstract was read: the mix and its weights are this recipe's choice. Deviates: no judge
scores the reasoning. Execution is the task's verifier: equal rows on several databases where the gold query returns
some, so that empty results and lucky tables earn nothing; a small weight on words keeps gold phrasing from dominating.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Text-to-SQL reinforcement learning",
    arxiv="2505.00016",
    family="rl",
    summary="SFT on traces, then GRPO on execution, closeness to the gold query and form.",
    needs=("verifier", "demonstrations"),
)


def text2sql_rl(
    task: Task,
    *,
    sft_share: float = 0.5,
    demonstrations: int = 16,
    prompts: int = 8,
    samples: int = 8,
    words: float = 0.2,
    form: float = 0.1,
    clip: float = 0.2,
    kl: float = 0.0,
    lr: float | None = None,
) -> Recipe:
    """Args: sft_share: of the budget. demonstrations: a step of stage 1. prompts, samples: drawn a step. words, form:
    weights of the closeness to the right query, and of having one. clip: of the ratio, either side. kl: weight of the
    KL to the imitator. lr: peak learning rate (scaled to the model)."""
    if not 0 < sft_share < 1:
        raise ArgumentError(f"sft_share={sft_share:g}: expected a share of the budget between 0 and 1")
    supervised = Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))
    reinforce = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=chain(signals.verified(task), signals.add_overlap(words, form)),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(clip, clip, "response") + kl * objectives.kl("start"),
    )
    stages = [
        Stage([supervised], linear(lr, scale=2.0), sft_share, name="sft"),
        Stage([reinforce], linear(lr), name="reinforce"),
    ]
    return Recipe("text2sql_rl", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
