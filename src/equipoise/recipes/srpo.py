"""GRPO over epochs that leave out what the last one solved.

    epoch e + 1 draws the prompts of epoch e without those whose samples were all right; mixed ones and those that were
    all wrong stay; when none is left all come back
    A_i = (r_i - mean) / (std + eps);  J = mean over tokens of max(-A_i rho_it, -A_i clip(rho_it, 1-low, 1+high)), no KL

2504.14286; no training code is published, and the higher clip is a guess. Until a prompt is solved the order is that
of uniform epochs; a run shorter than an epoch never resamples. Deviates: one stage on one task, where the paper adds
code after maths; the reward is the task's, without terms for language or form.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="History resampling",
    arxiv="2504.14286",
    family="rl",
    summary="GRPO whose next epoch leaves out the prompts that the last one solved.",
    needs=("verifier",),
)


def srpo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    pool: int = 64,
    low: float = 0.2,
    high: float = 0.28,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. pool: training prompts used, so that there is a next epoch (0: all). low,
    high: clip below and above. epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    used = sources.narrowed(task, pool) if pool else task
    stream = Stream(
        source=sources.scheduled(used, prompts, samples, signals.verified(task), sources.without_solved(used)),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(low, high, "token"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("srpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
