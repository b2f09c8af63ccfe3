"""A writer of hints for a frozen solver.

    solver: the model as it was given, never trained; it answers the question with the hint appended
    1. hints drawn from the model;  2. J = token mean of -log pi on hints with which the solver is right
    3. PPO on r_i = mean verdict of ``answers`` solver replies given hint i, less kl sum_t (log pi - log start)

2404.03414. start: the writer after 2. Deviates: writer and solver begin as one model; the eight classifiers of a
rationale's quality are left out, so the reward is the solver's success alone. ``state_answer`` False: a hint that is
itself right earns 0, so that the writer does not answer in the solver's place. The solver's replies are charged.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="LM-guided chain of thought",
    arxiv="2404.03414",
    family="rl",
    summary="Trains a writer of hints on the success of a frozen solver that reads them.",
    needs=("verifier",),
)


def lm_guided_cot(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    answers: int = 2,
    template: str = "Hint: {}",
    state_answer: bool = True,
    distil_share: float = 0.3,
    hints: int = 16,
    kl: float = 0.01,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: hints drawn a step. answers: of the solver to each hint. template: how the solver reads a
    hint, {} for its text. state_answer: whether a hint may be the answer. distil_share: of the budget, for drawing and
    imitating useful hints. hints: imitated a step. kl: weight of the KL to the imitator. lr: peak learning rate."""
    if not 0 < distil_share < 1:
        raise ArgumentError(f"distil_share={distil_share:g}: expected a share of the budget between 0 and 1")
    downstream = signals.continued(task, signals.appended(template), answers, policy="base", direct=state_answer)
    draw = Stream(sources.sampled(task, prompts, samples), None, downstream, store="hints")
    imitate = Stream(sources.stored("hints", sources.right_answers(4), hints, 2), objectives.likelihood("token"))
    reinforce = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=downstream,
        credit=chain(credit.subtract_kl("start", kl), credit.gae(1.0, 0.95), credit.whiten()),
        objective=objectives.clipped(0.2, 0.2, "token") + 0.1 * objectives.value_error(0.2),
    )
    stages = [
        Stage([draw], linear(lr), distil_share / 2, name="write"),
        Stage([imitate], linear(lr), distil_share, name="distil"),
        Stage([reinforce], linear(lr), name="reinforce"),
    ]
    return Recipe("lm_guided_cot", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
