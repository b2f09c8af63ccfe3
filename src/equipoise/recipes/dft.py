"""Dynamic fine-tuning: likelihood of demonstrations, each token weighed by its own probability.

    J = - (1/N) sum_t sg(pi_t) log pi_t        whose gradient is that of -(1/N) sum_t pi_t

2508.05629. Tokens that the model finds unlikely move it little: robust to rare wrong labels, slow on new facts. The
probability is taken at the current policy in fp32; N is the step's trained tokens.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Dynamic fine-tuning",
    arxiv="2508.05629",
    family="supervised",
    summary="Supervised fine-tuning with each token weighed by its detached probability.",
    needs=("demonstrations",),
)


def dft(task: Task, *, prompts: int = 32, lr: float | None = None, over: objectives.Over = "token") -> Recipe:
    """Args: prompts: demonstrations a step. lr: peak learning rate (scaled to the model when left out).
    over: mean over "token" or "response", or a constant number of tokens."""
    stream = Stream(sources.demonstrations(task, prompts), objectives.likelihood(over, weigh="probability"))
    return Recipe("dft", [Stage([stream], linear(lr, scale=2.0))], Budget(trained_tokens=100_000))
