"""GRPO, then GRPO on what it cannot solve, with the first parts of worked solutions given.

    1. GRPO on all prompts until ``first_share`` of the budget
    2. ``probe_share`` more: samples of that policy; prompts without a right one are kept
    3. GRPO on those, from the question and the first k of K parts of its demonstration, k = 0 .. K, all in one pool
    A_i = (r_i - mean) / (std + 1e-6);  J = mean_i (1/|y_i|) sum over own t of [clipped(A_i rho_t) + kl k3(pi, start)_t]

2506.04723. Given tokens are not trained; the last step of a demonstration is never given (k = K gives all else; a step
is a line, else a word, else a token). ``parts`` = 0 is plain GRPO on hard prompts. Deviates: rewards are 1 and 0, which
its 2 and -1 become once centred and divided by the deviation; there is no reward for form; temperature 1 (there 0.6).
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

SUMMARY = "GRPO, then GRPO on prompts it cannot solve, starting after parts of their worked solutions."
ABOUT = About("Scaffolded hard items (SPARKLE)", "2506.04723", "rl", SUMMARY, ("verifier", "demonstrations"))


def sparkle(
    task: Task,
    *,
    parts: int = 4,
    first_share: float = 0.5,
    probe_share: float = 0.1,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    kl: float = 0.01,
    lr: float | None = None,
) -> Recipe:
    """Args: parts: K of a worked solution. first_share: of the budget, for stage 1. probe_share: of the budget, to find
    unsolved prompts. prompts, samples: drawn a step. clip: of the ratio. kl: weight of the KL to the policy at the
    stage's start. lr: peak learning rate (scaled to the model)."""
    if parts < 0 or min(first_share, probe_share) <= 0 or first_share + probe_share >= 1:
        asked = f"parts={parts}, first_share={first_share:g}, probe_share={probe_share:g}"
        raise ArgumentError(f"{asked}: expected parts >= 0 and shares above 0 whose sum is below 1")
    verdict = signals.verified(task)
    advantage = chain(credit.center(), credit.divide_by_std())
    objective = objectives.clipped(clip, clip) + kl * objectives.kl("start", "k3")
    draw = sources.sampled(task, prompts, samples)
    hard = sources.prefixed(task, prompts, samples, range(parts + 1), parts, among=sources.unsolved("probed"))
    stages = [
        Stage([Stream(draw, objective, verdict, advantage)], linear(lr), first_share, name="all"),
        Stage([Stream(draw, None, verdict, store="probed")], linear(lr), first_share + probe_share, name="probe"),
        Stage([Stream(hard, objective, verdict, advantage)], linear(lr), name="hard"),
    ]
    return Recipe("sparkle", stages, Budget(generated_tokens=100_000))
