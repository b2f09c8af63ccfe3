"""DPO on the step where a wrong response went wrong.

    0. supervised fine-tuning until ``sft_share`` of the budget; 1. samples of that policy (draw_share of what is left):
       Q(h) = mean verdict of m continuations of a prefix h of a wrong sample;  A_k = Q(h_(k+1)) - Q(h_k)
       rejected: the step of least A, the first pit; preferred: as much of a right continuation from the same h
    2. J = mean of -log sigmoid(beta (log pi/start(preferred | h) - log pi/start(rejected | h)))

2406.14532; no code was released. The optimum is pi proportional to start exp(A / beta). ``parts`` = 0 compares whole
responses: DPO. A step is a line, else a word, else a token. Q of the question is its samples' mean and is free;
one wrong sample a prompt is searched. Continuations are the fine-tuned policy's: a stronger one hides pits.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

SUMMARY = "Finds the step that lost a wrong response by sampling from its prefixes, and prefers another there."
ABOUT = About("Per-step DPO from wrong samples", "2406.14532", "rl", SUMMARY, ("verifier", "demonstrations"))


def per_step_dpo(
    task: Task,
    *,
    parts: int = 4,
    rollouts: int = 6,
    beta: float = 0.2,
    sft_share: float = 0.2,
    draw_share: float = 0.6,
    demonstrations: int = 32,
    prompts: int = 8,
    samples: int = 8,
    pairs: int = 16,
    epochs: int = 3,
    lr: float | None = None,
) -> Recipe:
    """Args: parts: most cuts of a wrong response (0: whole responses are compared). rollouts: m. beta: of DPO.
    sft_share: of the budget, for demonstrations first (0: none). draw_share: of the rest, to find pairs.
    demonstrations: a step. prompts, samples: drawn a step. pairs: a step of stage 2. epochs: most passes over them.
    lr: peak learning rate (scaled to the model)."""
    if not (0 <= sft_share < 1 and 0 < draw_share < 1):
        asked = f"sft_share={sft_share:g}, draw_share={draw_share:g}"
        raise ArgumentError(f"{asked}: expected shares in [0, 1) and (0, 1)")
    imitate = Stream(sources.demonstrations(task, demonstrations), objectives.likelihood("token"))
    search = credit.first_pits(task, parts, rollouts)
    draw = Stream(sources.sampled(task, prompts, samples), None, signals.verified(task), search, store="pairs")
    prefer = Stream(
        sources.stored("pairs", sources.whole_groups(), pairs, epochs), objectives.preference(beta, "start")
    )
    first = [Stage([imitate], linear(lr, scale=2.0), sft_share, name="sft")] if sft_share else []
    until = sft_share + draw_share * (1 - sft_share)
    stages = [*first, Stage([draw], linear(lr), until, name="draw"), Stage([prefer], linear(lr, scale=0.5), name="dpo")]
    return Recipe("per_step_dpo", stages, Budget(generated_tokens=100_000, trained_tokens=100_000))
