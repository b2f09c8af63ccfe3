"""Proximal policy optimisation with a value head.

    A_t: generalised advantage estimates (gamma, lam) from the value head, whitened over the step's tokens
    J = mean_t max(-A_t rho_t, -A_t clip(rho_t, 1-clip, 1+clip), dual clip) + vf * 0.5 mean_t value error (clipped)
    with kl > 0:  r <- r - kl sum_t (log pi - log start)

1707.06347, GAE 1506.02438, dual clip 1912.09729. The value head reads the hidden state before each token, starts at 0
and shares the policy's body and learning rate. Deviates: kl is 0 by default and, when set, arrives with the reward at
the last token instead of at each; returns are taken before whitening.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Proximal policy optimisation",
    arxiv="1707.06347",
    family="rl",
    summary="Clipped policy gradient with a learned value function, several updates a batch.",
    needs=("verifier",),
)


def ppo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    dual: float | None = None,
    vf: float = 0.1,
    value_clip: float = 0.2,
    gamma: float = 1.0,
    lam: float = 0.95,
    kl: float = 0.0,
    epochs: int = 2,
    minibatches: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. clip, dual: of the ratio. vf: weight of the value error.
    value_clip: how far a value may move a step. gamma, lam: of the advantage estimates. kl: weight of the KL to the
    start policy in the reward. epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=chain(credit.subtract_kl("start", kl), credit.gae(gamma, lam), credit.whiten()),
        objective=objectives.clipped(clip, clip, "token", dual) + vf * objectives.value_error(value_clip),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("ppo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
