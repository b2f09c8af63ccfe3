"""Anytime reasoning: right as early as possible, whenever it is stopped.

    G traces a prompt, each cut at budgets b_1 < .. < b_S; ``ending`` is forced (not trained), n summaries follow
    q_s = mean verdict of a cut's summaries;  prior P of being stopped at b_s;  ret_s = sum_(u>=s) P_u q_u, s from 0
    tokens of a trace between b_(s-1) and b_s:  A = ret_s - (s V1 + (S - s) V2) / S,
        V1 = sum_(u<s) 2^u q_u / sum_(u<s) 2^u * sum_(u>=s) P_u of the same trace,  V2 = group mean of ret_s
    tokens of a summary:  A = verdict - mean of the summaries at its cut
    J = sum over own t of max(-A_t rho_t, -A_t clip(rho_t, 1-clip, 1+clip)) / (longest x responses)

2505.13438. No deviation, KL or entropy. S = 1 with one summary gives a trace Dr. GRPO's r - group mean. Deviates: the
whole reply is judged, trace, ending and summary, as the reply to a bare question is; a trace that ends by itself is cut
there once, for all later budgets; summaries count in the denominator as responses of their own.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Budget relative policy optimisation",
    arxiv="2505.13438",
    family="rl",
    summary="Rewards being right when stopped at any of several budgets; stretches of a trace get credit of their own.",
    needs=("verifier",),
)


def brpo(
    task: Task,
    *,
    prompts: int = 4,
    samples: int = 4,
    summaries: int = 2,
    budgets: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    prior: credit.Prior = "uniform",
    ending: str = ": ",
    summary: int = 8,
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: traces drawn a step. summaries: at each cut. budgets: shares of the longest response.
    prior: of being stopped, "uniform", "linear" or "base" (at the last). ending: what is said where a trace is cut.
    summary: most tokens of one. clip: of the ratio. lr: peak learning rate (scaled to the model)."""
    longest = task.max_new_tokens
    stream = Stream(
        source=sources.interrupted(task, prompts, samples, summaries, budgets, ending, summary),
        signal=signals.verified(task),
        credit=credit.credit_anytime(sources.tokens_of(budgets, longest), prior),
        objective=objectives.clipped(clip, clip, float(longest)),
    )
    return Recipe("brpo", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000))
