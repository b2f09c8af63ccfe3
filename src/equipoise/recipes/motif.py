"""Thinking in rounds: the first round is trained for what later rounds make of it.

    round k's prompt: the question and the reply of round k-1, nothing else
    r_i = mean verdict over ``continuations`` chains of rounds 2 ... R that begin from y_i;  y_i alone is trained
    J = GRPO's, with A_i = (r_i - mean) / (std + eps)

2507.02851 and its code. With rounds=1 it is GRPO. Deviates: the whole reply is passed on and judged by the task's
verifier (no tags, no literal boxed string, no format rewards); later rounds sample at the given temperature, not
truncated. Later rounds are charged like all sampling: a prompt costs samples (1 + continuations (rounds - 1)) replies.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Multi-round thinking (MOTIF)",
    arxiv="2507.02851",
    family="rl",
    summary="Trains the first of several rounds for the success of the last.",
    needs=("verifier",),
)


def motif(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    rounds: int = 2,
    continuations: int = 4,
    temperature: float = 0.8,
    template: str = "Notes: {}",
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. rounds: of thinking, with the first. continuations: chains of later rounds
    for each sample. temperature: of later rounds. template: how a reply is passed on, {} for its text.
    clip: of the ratio, either side. lr: peak learning rate (scaled to the model)."""
    if rounds < 1:
        raise ArgumentError(f"rounds={rounds}: expected at least 1, which is GRPO")
    later = signals.continued(
        task, signals.appended(template), continuations, max(rounds - 1, 1), temperature=temperature
    )
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=later if rounds > 1 else signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(clip, clip, "response"),
    )
    return Recipe("motif", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
