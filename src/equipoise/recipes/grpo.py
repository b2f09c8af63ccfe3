"""Group relative policy optimisation.

    A_i = (r_i - mean) / (std + eps) over the group's N samples (population std)
    J = mean_i (1/|y_i|) sum_t max(-A_i rho_it, -A_i clip(rho_it, 1-clip, 1+clip)) + kl k3(pi, start)

2402.03300. rho is taken against the policy when the update began, so with one update a step the clip is inert and the
gradient is the score function's. Deviates: kl is 0 by default, as is now common with verifiable rewards; groups whose
rewards are all equal have no gradient and are not run through the learner, but count in the mean.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Group relative policy optimisation",
    arxiv="2402.03300",
    family="rl",
    summary="Clipped policy gradient with rewards standardised within each prompt's samples.",
    needs=("verifier",),
)


def grpo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    kl: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. clip: of the ratio, either side. kl: weight of the KL to the start policy.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(clip, clip, "response") + kl * objectives.kl("start"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("grpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
