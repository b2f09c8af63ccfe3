"""RL on logic puzzles with a shaped table of verdicts, puzzles of more people later.

    r = +-1 for the form + (right 2, wrong -1.5, unparsed or broken form -2): one of 3, -0.5, -1, -3
    A_it = r_i, whitened over the tokens of the step
    J = mean_t max(-A rho, -A clip(rho, 1-clip, 1+clip)) + kl k3(pi, start)

2502.14768 and its code: REINFORCE++ with the KL in the loss; the curriculum is a stage for each number of people, from
few to many, each with an equal share of the budget and from the policy before. Deviates: without ``pattern`` the form
holds where an answer can be read (no tags). Where prompts do not name people there is one stage.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Rule-based RL on logic puzzles (Logic-RL)",
    arxiv="2502.14768",
    family="rl",
    summary="Policy gradient on a shaped table of verdicts, with whitened rewards and a curriculum.",
    needs=("verifier",),
)


def logic_rl(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    pattern: str = "",
    curriculum: bool = True,
    clip: float = 0.2,
    kl: float = 0.001,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. pattern: that the reply must match as a whole; empty: an answer can be
    read. curriculum: a stage for each number of people. clip: of the ratio, either side. kl: weight of the KL to the
    policy when the stage began. lr: peak learning rate (scaled to the model)."""
    levels = sources.by_level(task, "people") if curriculum else {"all": task}
    stages = []
    for k, (level, part) in enumerate(levels.items()):
        stream = Stream(
            source=sources.sampled(part, prompts, samples),
            signal=chain(signals.verified(task), signals.table(pattern=pattern)),
            credit=chain(credit.subtract(0.0), credit.whiten()),
            objective=objectives.clipped(clip, clip, "token") + kl * objectives.kl("start", over="token"),
        )
        stages.append(Stage([stream], linear(lr), (k + 1) / len(levels), name=level))
    return Recipe("logic_rl", stages, Budget(generated_tokens=100_000))
