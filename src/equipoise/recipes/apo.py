"""GRPO that treats right and wrong responses unlike: right ones are freer of the KL, long wrong ones weigh more.

    A_i = (r_i - mean) / (std + 1e-9);  p = pass rate of the prompt
    right and 0 < p < 1:  w_i = 1 - exp(-steepness p), else w_i = 1                  (harder prompts: less KL)
    wrong and D > 0 tokens longer than the mean right one:  A_i <- A_i (1 + (1 - base^-D))
    J = mean_i (1/|y_i|) sum_t max(-A_i rho_it, -A_i clip(rho_it, 1-clip, 1+clip)) + kl mean_i (w_i/|y_i|) sum_t k3_it

2506.21655, following the authors' code, where right means A_i > 0 for the KL. Deviates: the length term there is nearly
inert (base 1.00001: 4% at D = 4096), so ``base`` is larger here, where responses are short; rewards are the task's,
with no half reward for form.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Asymmetric policy optimisation",
    arxiv="2506.21655",
    family="rl",
    summary="GRPO with less KL for right answers to hard prompts, and more weight on long wrong ones.",
    needs=("verifier",),
)


def apo(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    kl: float = 0.001,
    steepness: float = 2.71828,
    base: float = 1.01,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. clip: of the ratio, either side. kl: weight of the KL to the start policy.
    steepness: how fast the KL's weight rises with the pass rate. base: of the weight of long wrong answers (1: none).
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    shaped = chain(
        credit.center(), credit.divide_by_std(1e-9), credit.press_long_wrong(base), credit.ease_kl(steepness)
    )
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=signals.verified(task),
        credit=shaped,
        objective=objectives.clipped(clip, clip) + kl * objectives.kl("start", "k3", weight="kl_weight"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("apo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
