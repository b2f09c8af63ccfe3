"""Answers between thoughts: right sub-answers of a multi-step task are rewarded too, once the policy is improving.

    r = +-1 for the form + (right 2, wrong -1.5, unparsed -2) + mid
    mid > 0 only for right replies of good form, in steps whose share of right ones exceeds the last step's - margin
    discounted: mid (sum over right sub-answers of 1/k / sum of all 1/k + 1/2 if all are right)
    J = GRPO's, with A_i = (r_i - mean) / (std + eps)

2505.19640; no released code, its figures for the table and the margin as far as they are known. A sub-answer is a step
of the task's own check; each wanted one counts once, however many are written. Deviates: thoughts and answers alternate
as the task writes its work, without tags, so the form holds where an answer can be read, unless ``pattern`` says more.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Interleaved reasoning",
    arxiv="2505.19640",
    family="rl",
    summary="Group-relative policy gradient with conditional rewards for sub-answers.",
    needs=("verifier", "demonstrations", "steps"),
)


def interleaved(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    mid: float = 0.5,
    form: signals.Form = "discounted",
    margin: float = 0.05,
    pattern: str = "",
    clip: float = 0.2,
    kl: float = 0.0,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. mid: reward of sub-answers. form: "all", "partial" or "discounted".
    margin: by which the share of right replies may fall. pattern: that the reply must match as a whole; empty: an
    answer can be read. clip: of the ratio. kl: weight of the KL to the start policy. lr: peak learning rate."""
    stream = Stream(
        source=sources.sampled(task, prompts, samples),
        signal=chain(
            signals.verified(task), signals.table(pattern=pattern), signals.add_sub_answers(task, mid, form, margin)
        ),
        credit=chain(credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(clip, clip, "response") + kl * objectives.kl("start"),
    )
    return Recipe("interleaved", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
