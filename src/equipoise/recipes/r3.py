"""Reverse curriculum: PPO from the question and the first steps of its demonstration.

    supervised until ``sft_share`` of the budget ("start"), then from states: question + first k of K parts of the
    demonstration, k = K .. 0; the last step is never given
    r: 1 right, ``partial`` readable but wrong, 0 otherwise;  R_t = -kl k1_t, plus r at the end;  A: GAE, whitened
    J = mean_i (1/|y_i|) sum over own t of [clipped(A_t rho_t) + vf value error_t]; given tokens carry no loss, no KL

2402.05808. "pooled" (its R3): all k at once, shuffled; "staged": equal shares of the budget for k = K down to 0.
``parts`` = 0 is ReFT with partial = 0.2, the code's. Deviates: truncated is 0; vf is 0.1 (there 5).
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

SUMMARY = "PPO that starts after the first steps of demonstrations, all cuts pooled or from the end to the question."
ABOUT = About("Reverse curriculum RL", "2402.05808", "rl", SUMMARY, ("verifier", "demonstrations"))


def r3(
    task: Task,
    *,
    schedule: Literal["pooled", "staged"] = "pooled",
    parts: int = 3,
    sft_share: float = 0.25,
    demonstrations: int = 32,
    prompts: int = 8,
    samples: int = 8,
    partial: float = 0.2,
    kl: float = 0.05,
    clip: float = 0.2,
    vf: float = 0.1,
    lam: float = 0.95,
    epochs: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: schedule: "pooled" or "staged". parts: K. sft_share: of the budget, for demonstrations first.
    demonstrations: a step. prompts, samples: drawn a step. partial: reward of a readable wrong answer. kl, vf: weights
    of the KL to stage 0 and of the value error. clip: of ratio and values. lam: of GAE. epochs: updates. lr: peak."""
    if parts < 0 or not 0 < sft_share < 1:
        raise ArgumentError(f"parts={parts}, sft_share={sft_share:g}: expected parts >= 0 and a share in (0, 1)")
    first = Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))
    stages = [Stage([first], linear(lr, scale=2.0), sft_share, name="sft")]
    levels = list(range(parts, -1, -1))
    for n, given in enumerate(cuts := [levels] if schedule == "pooled" else [[k] for k in levels], 1):
        stream = Stream(
            source=sources.prefixed(task, prompts, samples, given, parts),
            signal=chain(signals.verified(task), signals.table(1.0, partial, 0.0, form=0.0)),
            credit=chain(credit.gae(1.0, lam, kl=kl), credit.whiten()),
            objective=objectives.clipped(clip, clip) + vf * objectives.value_error(clip, "response"),
            updates=Updates(epochs),
        )
        end = min(sft_share + (1 - sft_share) * n / len(cuts), 1.0)
        stages.append(Stage([stream], linear(lr), end, name=f"given {','.join(map(str, given))}"))
    return Recipe("r3", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
