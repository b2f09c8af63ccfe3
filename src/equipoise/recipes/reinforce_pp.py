"""REINFORCE++: token returns whitened over the whole step, with PPO's clip and without a critic.

    plain     G_t = sum_{u>=t} gamma^(u-t) R_u,  R_u = -kl (log pi - log start), plus r_i at the end;  A = whitened G
    baseline  A = whitened (r_i - group mean);  J gains kl k2(pi, start)
    J = mean over tokens of max(-A rho, -A clip(rho, 1-clip, 1+clip))

2501.03262. Whitened: mean 0 and population variance 1 over all trained tokens of the step. Followed is the released
code (k2 in the loss for the variant with a baseline). Deviates: kl is 0 by default (verifiable rewards). In "plain" a
group of equal rewards still trains, in "baseline" only by what unequal lengths leave of the mean.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="REINFORCE++",
    arxiv="2501.03262",
    family="rl",
    summary="Clipped policy gradient with advantages whitened over the whole step; no critic.",
    needs=("verifier",),
)


def reinforce_pp(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    baseline: bool = False,
    gamma: float = 1.0,
    kl: float = 0.0,
    clip: float = 0.2,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. baseline: take the group's mean off first. gamma: discount a token, 1 with
    a baseline. kl: weight of the KL to the start policy. clip: of the ratio. epochs, minibatches: updates a step.
    lr: peak learning rate (scaled to the model)."""
    objective = objectives.clipped(clip, clip, "token")
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.center() if baseline else credit.returns(gamma, kl), credit.whiten()),
        objective=objective + kl * objectives.kl("start", "k2", "token") if baseline else objective,
        updates=Updates(epochs, minibatches),
    )
    return Recipe("reinforce_pp", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
