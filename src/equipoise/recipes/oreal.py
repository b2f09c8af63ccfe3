"""Outcome rewards spread over tokens by a head that learns, from the outcome, which prefixes look right.

    h_t: token reward head;  L_head = BCE(sigmoid(mean_t h_t), right);  c_t = sigmoid(mean of h_1..h_t)
    w_t = clamp(2 c_t - 1, 0, 1) if right, clamp(1 - 2 c_t, 0, 1) if wrong;  A_i leave-one-out over all samples
    of each prompt with right and wrong samples, one of either at random:
    J = sum_right -A w_t log pi_t / right tokens + wrong * sum_wrong -A w_t rho_t / wrong tokens + kl k3 + L_head

2502.06781, following the authors' code (the paper clones right samples and shapes the negative reward by pass rate). At
first h and every weight are 0, so the head learns alone for the first ``warmup`` of the budget. Deviates: the head sits
on the policy's own body, which its loss trains too (a second model there); hard prompts are drawn no more often; no
top-p. Without weights, pair, separate and kl, and with wrong = 1, it is token-mean leave-one-out.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Outcome rewards with token weights",
    arxiv="2502.06781",
    family="rl",
    summary="Leave-one-out on one right and one wrong sample a prompt, weighed by a token reward head.",
    needs=("verifier",),
)


def oreal(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    wrong: float = 0.5,
    weights: bool = True,
    pair: bool = True,
    separate: bool = True,
    kl: float = 0.01,
    warmup: float = 0.1,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. wrong: weight of wrong samples. weights: of tokens, by the head. pair:
    learn from one right and one wrong sample a prompt, else all. separate: divide right and wrong by their own tokens.
    kl: weight of the KL to the start policy. warmup: share of the budget for the head alone. lr: peak learning rate."""
    if not 0 <= warmup < 1:
        raise ArgumentError(f"warmup={warmup}: expected a share of the budget in [0, 1)")
    head, budget = "token_reward", Budget(generated_tokens=100_000)
    keep = credit.keep_one_of_each() if pair else credit.keep_mixed()
    chosen = chain(credit.pass_rate(), credit.leave_one_out(), keep)
    learned = objectives.right_and_wrong(wrong, separate) + kl * objectives.kl("start", "k3", "token")
    draw, verdict, fit = sources.sampled(task, prompts, samples), signals.verified(task), objectives.outcome(head)
    if not weights:
        return Recipe("oreal", [Stage([Stream(draw, learned, verdict, chosen)], linear(lr))], budget)
    alone = Stage([Stream(draw, fit, verdict, chosen)], linear(lr), warmup, name="head")
    both = Stage([Stream(draw, learned + fit, verdict, chain(chosen, credit.weigh_by_prefix(head)))], linear(lr))
    return Recipe("oreal", [alone, both] if warmup else [both], budget)
