"""A writer of rationales for a frozen solver.

    solver: the model as it was given, never trained; it goes on from the rationale or reads it as a hint
    1. rationales drawn from the model;  2. J = token mean of -log pi on those with which the solver is right
    3. PPO on r_i = mean verdict of ``answers`` solver replies given rationale i, less kl sum_t (log pi - log start)

2404.03414. start: the writer after 2. Deviates: writer and solver begin as one model; the eight classifiers of a
rationale's quality are left out, so the reward is the solver's success alone. With ``until`` a rationale is the reply
up to these words, and the solver completes it; else it is appended to the question. ``state_answer`` False: one that is
itself right earns 0, so that the writer does not answer in the solver's place. The solver's replies are charged.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

SUMMARY = "Trains a writer of rationales on the success of a frozen solver that reads or completes them."
ABOUT = About("LM-guided chain of thought", "2404.03414", "rl", SUMMARY, ("verifier",))


def lm_guided_cot(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    answers: int = 2,
    until: str = "",
    template: str = "Hint: {}",
    state_answer: bool = True,
    distil_share: float = 0.3,
    hints: int = 16,
    passes: int = 2,
    kl: float = 0.01,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: rationales drawn a step. answers: of the solver to each. until: what ends one that begins
    the reply; empty: it is a hint, read through template, {} for its text. state_answer: whether it may be the answer.
    distil_share: of the budget, for drawing and imitating useful ones; 1: nothing else. hints: imitated a step, passes:
    how often. kl: weight of the KL to the imitator. lr: peak learning rate."""
    if not 0 < distil_share <= 1:
        raise ArgumentError(f"distil_share={distil_share:g}: expected a share of the budget above 0, at most 1")
    read = None if until else signals.appended(template)
    solved = signals.continued(task, read, answers, policy="base", direct=state_answer)
    write = sources.sampled(task, prompts, samples, stop=(until,) if until else ())
    imitate = Stream(sources.stored("hints", sources.right_answers(4), hints, passes), objectives.likelihood("token"))
    fit = objectives.clipped(0.2, 0.2, "token") + 0.1 * objectives.value_error(0.2)
    advantage = chain(credit.subtract_kl("start", kl), credit.gae(1.0, 0.95), credit.whiten())
    stages = [
        Stage([Stream(write, None, solved, store="hints")], linear(lr), distil_share / 2, name="write"),
        Stage([imitate], linear(lr), distil_share, name="distil"),
        Stage([Stream(write, fit, solved, advantage)], linear(lr), name="reinforce"),
    ]
    kept = stages if distil_share < 1 else stages[:2]
    return Recipe("lm_guided_cot", kept, Budget(generated_tokens=100_000, trained_tokens=100_000))
