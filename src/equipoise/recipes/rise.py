"""Recursive introspection: imitate attempts of a conversation, weighed by their rewards, with a better last one.

    up to K attempts on-policy with feedback between them, ended by a right one; the last reply is replaced by the best
    of N own samples, or by a demonstration
    J = mean over attempts of exp(r_k / tau) (1/|y_k|) sum_t -log pi(y_kt), of those that the criterion keeps

2407.18219, and its code for the criteria. Weights are not normalised, and wrong replies keep weight 1 under "all".
Deviates: an iteration is one step, not a data set; only the last state of a conversation gets a better reply.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Recursive introspection (RISE)",
    arxiv="2407.18219",
    family="rl",
    summary="Imitates own attempts after feedback, weighed by reward, the last replaced by a better one.",
    needs=("verifier",),
)


def rise(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 2,
    turns: int = 2,
    feedback: str | None = None,
    teacher: sources.Teacher = "best",
    best_of: int = 8,
    tau: float = 0.4,
    criterion: credit.Criterion = "all",
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: conversations a step. turns: most attempts. feedback: said after a wrong one, {} for the
    question (none: as the task asks again, else that it is not right). teacher: who gives the last reply, "best" or
    "demonstration". best_of: own samples for it. tau: of the weights. criterion: attempts that are imitated, "all",
    "better", "best" or "success". lr: peak learning rate (scaled)."""
    say = sources.said_between(task, feedback, "That is not right. Try again.")
    stream = Stream(
        source=chain(
            sources.conversed(task, prompts, samples, say, turns, until_right=True),
            sources.last_reply_from(task, teacher, best_of),
        ),
        signal=signals.turns(task),
        credit=credit.weigh_turns(tau, criterion),
        objective=objectives.reweighted((1.0, 1.0), over=1.0),
    )
    return Recipe("rise", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
