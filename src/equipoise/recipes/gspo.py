"""Group sequence policy optimisation: GRPO with one ratio for a whole response.

    s_i = (prod_t pi / old)^(1/|y_i|);  per token s_it = sg(s_i) pi_t / sg(pi_t)
    A_i = (r_i - mean) / (std + eps) over the group's N samples (population std)
    J = mean_i (1/|y_i|) sum_t max(-A_i s_it, -A_i clip(s_it, 1-low, 1+high))

2507.18071; the gradient is that of s_i itself as long as A does not vary within a response. Clip widths are of a
geometric mean, so they are a thousand times smaller than PPO's, and they matter only from the second update of a step
on: by default each step makes four.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Group sequence policy optimisation",
    arxiv="2507.18071",
    family="rl",
    summary="GRPO whose ratio and clip are those of the whole response, normalised by its length.",
    needs=("verifier",),
)


def gspo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    low: float = 3e-4,
    high: float = 4e-4,
    kl: float = 0.0,
    epochs: int = 1,
    minibatches: int = 4,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. low, high: clip below and above, of the ratio a token (geometric mean).
    kl: weight of the KL to the start policy. epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(low, high, "response", ratio="mean") + kl * objectives.kl("start"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("gspo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
