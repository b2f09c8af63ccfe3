"""Supervised fine-tuning: maximise the likelihood of demonstrations.

    J = - sum over trained tokens of log pi_t / number of trained tokens of the step

Trained tokens are every assistant turn with its end token. The mean is over the whole step's tokens, so it does not
depend on micro-batches or ranks.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Supervised fine-tuning",
    arxiv=None,
    family="supervised",
    summary="Maximises the likelihood of demonstrations, token by token.",
    needs=("demonstrations",),
)


def sft(task: Task, *, prompts: int = 32, lr: float | None = None, over: objectives.Over = "token") -> Recipe:
    """Args: prompts: demonstrations a step. lr: peak learning rate (scaled to the model when left out).
    over: mean over "token" or "response", or a constant number of tokens."""
    stream = Stream(sources.demonstrations(task, prompts), objectives.likelihood(over))
    return Recipe("sft", [Stage([stream], linear(lr, scale=2.0))], Budget(trained_tokens=100_000))
