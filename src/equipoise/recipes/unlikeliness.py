"""GRPO that pays more for right responses that the policy found unlikely.

    groups of one kind are dropped; then, with k_i = 0 .. N-1 the rank of the mean token log-prob of y_i in its group,
    least likely first:  r_i <- r_i (1 - weight k_i / N)
    A_i = (r_i - mean) / (std + 1e-6);  J = mean_i (1/|y_i|) sum_t clipped(A_i rho_it) + kl k3(pi, start), two epochs

2506.02355 (id from memory), following the authors' code (the paper counts ranks from the likeliest). weight = 0 is GRPO
on mixed groups. Deviates: equal log-probs share their mean rank, so that copies of a response are treated alike; a
step is refilled by at most ``rounds`` draws where the code fills a buffer.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, Updates, linear
from equipoise.types import Task

ABOUT = About(
    title="Rewarding the unlikely",
    arxiv="2506.02355",
    family="rl",
    summary="GRPO whose reward shrinks with the response's likelihood rank within its group.",
    needs=("verifier",),
)


def unlikeliness(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    weight: float = 0.25,
    clip: float = 0.2,
    kl: float = 0.1,
    rounds: int = 2,
    epochs: int = 2,
    minibatches: int = 1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a round. weight: share of the reward that the likeliest response loses.
    clip: of the ratio, either side. kl: weight of the KL to the start policy. rounds: most draws a step.
    epochs, minibatches: updates a step. lr: peak learning rate (scaled to the model)."""
    draw, verdict = sources.sampled(task, prompts, samples), signals.verified(task)
    stream = Stream(
        source=sources.refill(draw, verdict, credit.keep_mixed(), rounds),
        credit=chain(credit.penalise_likely(weight), credit.center(), credit.divide_by_std()),
        objective=objectives.clipped(clip, clip) + kl * objectives.kl("start", "k3"),
        updates=Updates(epochs, minibatches),
    )
    return Recipe("unlikeliness", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
