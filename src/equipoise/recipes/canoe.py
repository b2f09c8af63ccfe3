"""Faithfulness to a context: the long answer must carry what the short one needs.

    one reply: a long answer, a separator, a short answer
    r = right(short) + form + influence + length
    influence: the prompt again with the long answer in place of its context; 1 if the new short answer is right
    length: 1 if the long answer has between ``low`` and ``high`` of the context's characters
    J = GRPO's, with A_i = (r_i - mean) / (std + 1e-4)

2505.16483 and its code. Deviates: the long answer is put in literally (the code escapes it as a pattern); without one,
influence is 0 (the code runs the second pass on the old context and ignores it). Second passes are charged. ``long``
False rewards the short answer alone; ``warm`` first teaches the form by demonstrations, at four times the usual rate.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Contextual faithfulness (CANOE)",
    arxiv="2505.16483",
    family="rl",
    summary="Rewards long answers from which the short answer can be found again without the context.",
    needs=("verifier",),
)


def canoe(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    column: str = "context",
    separator: str = "=>",
    low: float = 0.2,
    high: float = 0.8,
    long: bool = True,
    warm: float = 0.0,
    demonstrations: int = 4,
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. column: of the data, with the context. separator: between long and short
    answer; empty: all is the long one. low, high: its share of the context's characters. long: reward it. warm: share
    of the budget for demonstrations, so many a step. clip: of the ratio. lr: peak learning rate after them (scaled)."""
    if not 0 <= warm < 1:
        raise ArgumentError(f"warm={warm:g}: expected a share of the budget in [0, 1)")
    again = signals.continued(task, signals.replaced(column, separator), 1)
    both = chain(again, signals.add_form_and_length(column, separator, low, high))
    teach = [Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))] if warm else []
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=both if long else signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std(1e-4)),
        objective=objectives.clipped(clip, clip, "response"),
    )
    stages = [Stage([s], linear(None, scale=4.0), warm, name="warm") for s in teach] + [Stage([stream], linear(lr))]
    return Recipe("canoe", stages, Budget(generated_tokens=100_000, trained_tokens=100_000 if warm else None))
