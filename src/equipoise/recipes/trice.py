"""Markov-chain Monte Carlo expectation maximisation over rationales, TRICE.

    memory z of each prompt: the last right response;  proposal z' ~ pi(. | x), becomes z if it is right
    J = - mean over prompts of [ log pi(z) - b log pi(z') ],   b = share of right proposals at the step's other prompts

2312.02179; estimator from memory of the paper: its expectation is the gradient of log P(right | x) when z is
distributed as pi given right. Accepted proposals weigh 1 - b; rejected ones -b, and the old memory 1. Without
``control`` b = 0. A remembered response is not reweighted. Deviates: the memory begins empty, not with responses of a
policy that was shown the answer, so a prompt never solved has only its -b; the mean is over all prompts of the step.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="MCMC-EM over rationales",
    arxiv="2312.02179",
    family="rl",
    summary="Likelihood of one remembered right response a prompt, with failed proposals as control variate.",
    needs=("verifier",),
)


def trice(task: Task, *, prompts: int = 32, control: bool = True, lr: float | None = None) -> Recipe:
    """Args: prompts: a step, one proposal each. control: subtract the proposals' scores, weighed by the share of right
    ones among the other prompts. lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.remembered(task, signals.verified(task), prompts),
        credit=credit.acceptance(control),
        objective=objectives.score_function("group"),
    )
    return Recipe("trice", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
