"""Tulu 3's pipeline: supervised fine-tuning, length-normalised DPO, reinforcement learning with a verifier.

    1. J = token mean of -log pi on demonstrations
    2. J = pair mean of -log sigmoid(beta (D(w)/|w| - D(l)/|l|)), pairs drawn from the policy after stage 1
    3. GRPO with kl k3(pi, start of stage 3)                       (version 3.1; version 3 used PPO)

2411.15124. The budget is split by ``sft_share`` and ``dpo_share``; the rest goes to stage 3. Deviates: pairs are right
against wrong by the verifier, not scored by a judge; half of stage 2 pays for drawing them.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Tulu 3",
    arxiv="2411.15124",
    family="pipeline",
    summary="SFT, then length-normalised DPO on own pairs, then RL with a verifier.",
    needs=("verifier", "demonstrations"),
)


def tulu3(
    task: Task,
    *,
    sft_share: float = 1 / 3,
    dpo_share: float = 1 / 3,
    demonstrations: int = 32,
    pairs: int = 32,
    beta: float = 5.0,
    prompts: int = 8,
    samples: int = 8,
    kl: float = 0.01,
    lr: float | None = None,
) -> Recipe:
    """Args: sft_share, dpo_share: of the budget. demonstrations, pairs: a step. beta: of the length-normalised DPO.
    prompts, samples: drawn a step. kl: weight of the KL in stage 3. lr: peak learning rate (scaled to the model)."""
    if sft_share <= 0 or dpo_share <= 0 or sft_share + dpo_share >= 1:
        raise ArgumentError(
            f"sft_share={sft_share:g} and dpo_share={dpo_share:g}: expected shares above 0 with sum < 1"
        )
    verdict = signals.verified(task)
    supervised = Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))
    draw = Stream(sources.sampled(task, prompts, samples), None, verdict, store="drawn")
    drawn = sources.stored("drawn", sources.right_wrong_pairs(2), pairs, 4)
    prefer = Stream(drawn, objectives.preference(beta, "start", per_token=True))
    objective = objectives.clipped(0.2, 0.2, "response") + kl * objectives.kl("start")
    advantage = chain(credit.center(), credit.divide_by_std())
    reinforce = Stream(sources.sampled(task, prompts, samples), objective, verdict, advantage)
    stages = [
        Stage([supervised], linear(lr), sft_share, name="sft"),
        Stage([draw], linear(lr), sft_share + dpo_share / 2, name="draw"),
        Stage([prefer], linear(lr, scale=0.5), sft_share + dpo_share, name="dpo"),
        Stage([reinforce], linear(lr), name="rlvr"),
    ]
    return Recipe("tulu3", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
