"""Faithfulness to a context: the long answer must carry what the short one needs.

    one reply: a long answer, a separator, a short answer
    r = right(short) + form + influence + length
    influence: the prompt again with the long answer in place of its context; 1 if the new short answer is right
    length: 1 if the long answer has between ``low`` and ``high`` of the context's characters
    J = GRPO's, with A_i = (r_i - mean) / (std + 1e-4)

2505.16483 and its code. Deviates: the long answer is put in literally (the code escapes it as a pattern); without one,
influence is 0 (the code runs the second pass on the old context and ignores it). Second passes are charged.
"""

from equipoise.budget import Budget
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
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. column: of the data, with the context as the prompt has it. separator:
    between long and short answer; empty: the reply is the long answer. low, high: of the long answer's share of the
    context's characters. clip: of the ratio. lr: peak learning rate (scaled to the model)."""
    again = signals.continued(task, signals.replaced(column, separator), 1)
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=chain(again, signals.add_form_and_length(column, separator, low, high)),
        credit=chain(credit.center(), credit.divide_by_std(1e-4)),
        objective=objectives.clipped(clip, clip, "response"),
    )
    return Recipe("canoe", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
