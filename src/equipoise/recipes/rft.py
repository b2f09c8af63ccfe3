"""Rejection-sampling fine-tuning: draw, keep what is right, fine-tune on it; in rounds.

    round k: y ~ pi_k(. | x), samples each;  K = distinct right ones, at most cap a prompt
             J = - sum over K of log pi / trained tokens

2308.01825; with ``restart`` each round starts from the base weights as STaR (2203.14465) and ReST-EM (2312.06585) do,
otherwise it goes on from pi_k. Deviates: rounds end by their share of the budget (``draw_share`` of each round pays for
drawing, whatever that costs), not by a number of samples; duplicates are exact token sequences.
"""

from equipoise.budget import Budget
from equipoise.parts import objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Rejection-sampling fine-tuning",
    arxiv="2308.01825",
    family="supervised",
    summary="Fine-tunes on the model's own verified-right samples, in rounds.",
    needs=("verifier",),
)


def rft(
    task: Task,
    *,
    prompts: int = 16,
    samples: int = 8,
    cap: int = 4,
    rounds: int = 2,
    draw_share: float = 0.5,
    epochs: int = 4,
    fit: int = 64,
    restart: bool = False,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. cap: right responses kept a prompt. rounds: of drawing and fitting.
    draw_share: share of a round's budget for drawing. epochs: most passes over what is kept. fit: responses a step
    of fine-tuning. restart: each round from the base weights. lr: peak learning rate (scaled to the model)."""
    stages = []
    for k in range(rounds):
        store, begin, end = f"round {k + 1}", k / rounds, (k + 1) / rounds
        draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), store=store)
        kept = sources.stored(store, sources.right_answers(cap), fit, epochs)
        stages += [
            Stage([draw], linear(lr), begin + draw_share * (end - begin), name=f"draw {k + 1}"),
            Stage([Stream(kept, objectives.likelihood("token"))], linear(lr, scale=2.0), end, restart, f"fit {k + 1}"),
        ]
    return Recipe("rft", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
