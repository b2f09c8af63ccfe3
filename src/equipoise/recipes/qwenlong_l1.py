"""DAPO in phases by the length of the prompt, going back to hard prompts of earlier phases.

    phase k draws prompts of length in (L_(k-1), L_k]; then also, with probability ``replay``,
    one seen before, P(x) proportional to 1 / mean reward of x
    then as DAPO: groups of equal reward dropped and refilled, A_i = (r_i - mean) / (std + eps), asymmetric clip,
    mean over the step's tokens, soft length penalty, no KL

2505.17667 (id from memory); the curriculum is not in the released code and follows the paper. One phase is DAPO.
Replayed prompts are sampled anew. Deviates: the reward is the rule alone (the paper takes the larger of rule and
judge); limits are quantiles of the prompts' characters, phases equal shares of the budget; no supervised warm-up.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Progressive context scaling",
    arxiv="2505.17667",
    family="rl",
    summary="DAPO on ever longer prompts, with hard ones of earlier phases drawn again.",
    needs=("verifier",),
)


def qwenlong_l1(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    phases: int = 2,
    replay: float = 0.25,
    low: float = 0.2,
    high: float = 0.2,
    rounds: int = 3,
    soft: int = 0,
    epochs: int = 1,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a round. phases: by length of prompt. replay: share of prompts of earlier phases.
    low, high: clip below and above. rounds: most draws a step. soft: tokens before the longest response where the
    length penalty begins (0: none). epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model).
    """
    longest = task.max_new_tokens
    shaping = [credit.penalise_length(longest - soft, longest)] if soft else []
    order = sources.by_length(task, phases, replay)
    draw = sources.scheduled(task, prompts, samples, signals.verified(task), order)
    stream = Stream(
        source=sources.refill(draw, None, credit.keep_mixed(), rounds),
        credit=chain(*shaping, credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(low, high, "token"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("qwenlong_l1", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
