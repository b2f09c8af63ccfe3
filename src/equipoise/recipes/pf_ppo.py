"""PPO on those samples of a prompt whose reward a fallible scorer is likely to have right.

    r_i = verdict + deviation * normal error, one fixed function of prompt and reply    (in place of a reward model)
    A_t from the value head as in PPO, whitened over every sample; then of each prompt's samples only these are learned
    from, by rank of r: the best | the best and a random other | the best and the worst | all
    J = mean_t clipped(A_t rho_t) + vf value error,   r_i <- r_i - kl sum_t (log pi - log start)

2409.06957: the filter form (advantages before the filter), ranked within the prompt as in the paper, not over the
batch. The paper chooses the filter with the highest R^2 of true score on model score over kept samples, which is
``credit.explained`` of a run's rollouts. Deviates: the scorer is the verifier with added noise, whose true score stays
in the record; no resampling by weight; kl is 0 by default and arrives at the last token.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Policy filtration",
    arxiv="2409.06957",
    family="rl",
    summary="PPO that learns from the samples a noisy scorer ranks first, or first and last.",
    needs=("verifier",),
)


def pf_ppo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    kept: credit.Kept = "best+worst",
    deviation: float = 0.5,
    clip: float = 0.2,
    vf: float = 0.1,
    kl: float = 0.0,
    epochs: int = 2,
    minibatches: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. kept: of a prompt's samples: "best", "best+random", "best+worst" or "all".
    deviation: standard deviation of the scorer's error. clip: of the ratio, either side. vf: weight of the value error.
    kl: weight of the KL to the start policy. epochs, minibatches: updates a step. lr: peak learning rate (scaled)."""
    advantage = chain(credit.subtract_kl("start", kl), credit.gae(), credit.whiten(), credit.keep_ranked(kept, "model"))
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=chain(signals.verified(task), signals.noisy(deviation)),
        credit=advantage,
        objective=objectives.clipped(clip, clip, "token") + vf * objectives.value_error(0.2),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("pf_ppo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
