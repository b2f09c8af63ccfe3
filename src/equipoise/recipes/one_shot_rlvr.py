"""Reinforcement learning on one training prompt, copied as often as a step has prompts.

    1. without a name: GRPO on ``pool`` prompts for a share of the budget; the prompt whose pass rate varied most wins
    2. from the base weights again, on copies of it, each a group:
       J = GRPO(A_i = (r_i - mean)/(std + eps), clip) + kl k3(pi, start) - entropy H(pi)

2504.20571. Arms: without ``policy`` only KL and entropy act; reward "format" pays for any readable answer; mislabelled.
Deviates: temperature 1 (0.6 there); both stages have the same objective; of equal variances the rate nearest 1/2 wins.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Reinforcement learning from one example",
    arxiv="2504.20571",
    family="rl",
    summary="GRPO with an entropy bonus on copies of one prompt, named or the one whose pass rate varied most.",
    needs=("verifier",),
)


def one_shot_rlvr(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    prompt: str = "",
    pool: int = 32,
    pool_share: float = 0.3,
    reward: Literal["verdict", "format"] = "verdict",
    mislabelled: bool = False,
    policy: bool = True,
    kl: float = 0.001,
    entropy: float = 0.001,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: copies a step, drawn for each. prompt: id of the prompt; none: the most variable one.
    pool, pool_share: prompts, and share of the budget, to find it. reward: "verdict" or "format". mislabelled: with the
    answer of another. policy: with the policy loss. kl, entropy: weights. lr: peak learning rate (scaled)."""
    if not prompt and not 0 < pool_share < 1:
        raise ArgumentError(f"pool_share={pool_share}: expected a share in (0, 1); or name a --prompt")
    verdict = chain(signals.verified(task), *([signals.answered()] if reward == "format" else []))
    objective = kl * objectives.kl("start", "k3") + -entropy * objectives.entropy()
    objective = objectives.clipped(0.2, 0.2) + objective if policy else objective
    shaped = chain(credit.center(), credit.divide_by_std())

    def stream(among: sources.Pool, store: str | None = None) -> Stream:
        return Stream(sources.sampled(task, prompts, samples, among=among), objective, verdict, shaped, store=store)

    one = (sources.named if prompt else sources.most_variable)(task, prompt or "history", mislabelled)
    search = Stage([stream(sources.first(task, pool), "history")], linear(lr), pool_share, name="pool")
    alone = Stage([stream(one)], linear(lr), restart=not prompt)
    return Recipe("one_shot_rlvr", [alone] if prompt else [search, alone], Budget(generated_tokens=100_000))
