"""Reinforced fine-tuning: demonstrations first, then PPO on the same questions.

    1. J = token mean of -log pi on demonstrations, until ``sft_share`` of the budget is spent
    2. r_i = 1 right, ``partial`` wrong but an answer can be read, 0 otherwise
       R_t = -kl (log pi - log start)_t, plus r_i at the last token;  A_t: GAE (1, lam) from the value head, whitened
       J = mean_i (1/|y_i|) sum_t [max(-A_t rho_t, -A_t clip(rho_t, 1-clip, 1+clip)) + vf value error_t]

2401.08967 (id from memory), following the released templates where the code's defaults differ; both losses are means
over responses of token means. start: the policy after 1. kl = 0, lam = 1 and values of 0 give REINFORCE with
PPO's clip. Deviates: the reward is at the end token, not before it; truncated is 0; vf is 0.1 (there 5).
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

SUMMARY = "Fine-tunes on demonstrations, then PPO with a little reward for any readable answer."
ABOUT = About("Reinforced fine-tuning", "2401.08967", "rl", SUMMARY, ("verifier", "demonstrations"))


def reft(
    task: Task,
    *,
    sft_share: float = 0.25,
    demonstrations: int = 32,
    prompts: int = 8,
    samples: int = 8,
    partial: float = 0.1,
    kl: float = 0.05,
    clip: float = 0.2,
    vf: float = 0.1,
    lam: float = 0.95,
    epochs: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: sft_share: of the budget, for demonstrations first. demonstrations: a step. prompts, samples: drawn a step.
    partial: reward of a readable wrong answer. kl: weight of the KL to the policy after stage 1. clip: of ratio and
    values. vf: weight of the value error. lam: of GAE. epochs: updates a step. lr: peak learning rate (scaled)."""
    if not 0 < sft_share < 1:
        raise ArgumentError(f"sft_share={sft_share:g}: expected a share of the budget in (0, 1); without it use ppo")
    imitate = Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))
    reinforce = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=chain(signals.verified(task), signals.table(1.0, partial, 0.0, form=0.0)),
        credit=chain(credit.gae(1.0, lam, kl=kl), credit.whiten()),
        objective=objectives.clipped(clip, clip) + vf * objectives.value_error(clip, "response"),
        updates=Updates(epochs),
    )
    stages = [
        Stage([imitate], linear(lr, scale=2.0), sft_share, name="sft"),
        Stage([reinforce], linear(lr), name="ppo"),
    ]
    return Recipe("reft", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
