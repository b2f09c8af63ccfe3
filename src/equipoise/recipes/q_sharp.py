"""Guidance by the soft value of the frozen policy: learns when success is likely, and decodes towards it.

    p(s, a) = P(right | prefix s, token a, the policy pi goes on)        a head on pi, one column per vocabulary entry
    Q(s, a) = eta log E[exp(Z / eta)] = eta log(1 - p + p e^(1/eta)),  Z in {0, 1};  decode with pi(a|s) exp(Q / eta)
    round k: roll in with the guided decoder for a random number of tokens, let pi finish, pool every round's responses;
             J = mean_t -Z log p_t - (1 - Z) log(1 - p_t) over the tokens after the roll-in; only the head learns

2502.20548 (details from memory; no released code was read). Labels come from pi's own continuations, so p is pi's value
and one head serves every eta; with the exact p the decoder draws from pi e^(Z/eta) / norm, whole responses. Deviates:
the value model is linear in the frozen policy's hidden state and the candidate token, not a network of its own. The
guided decoder is what is evaluated; the exported model is pi, unchanged, without the head.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import decoders, objectives, signals, sources
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Q#: soft value guidance",
    arxiv="2502.20548",
    family="rl",
    summary="Learns the frozen policy's chance of success after each token and decodes towards it.",
    needs=("verifier",),
)
HEAD = "success[V]"


def q_sharp(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    eta: float = 0.1,
    top: int = 20,
    rounds: int = 2,
    draw_share: float = 0.5,
    epochs: int = 8,
    fit: int = 8,
    soft: bool = True,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. eta: price of a nat of KL. top: guide among the policy's so many likeliest
    tokens, 0 for all. rounds: of drawing and fitting. draw_share: of a round's budget for drawing. epochs: most passes
    over the pool a round. fit: groups a step of fitting. soft: guide by Q, else by p. lr: peak of the head (scaled)."""
    if rounds < 1 or not 0 < draw_share < 1:
        raise ArgumentError(f"rounds={rounds}, draw_share={draw_share:g}: expected at least 1, and a share in (0, 1)")
    adjust = decoders.guided(HEAD, eta, top, soft)
    stages = []
    for k in range(rounds):
        begin, end = k / rounds, (k + 1) / rounds
        source = sources.begun_by(task, prompts, samples, adjust)
        draw = Stream(source, None, signals.verified(task), store="pool")
        pool = Stream(sources.stored("pool", list, fit, epochs, samples), objectives.outcome_error(HEAD))
        stages += [
            Stage([draw], linear(lr), begin + draw_share * (end - begin), name=f"draw {k + 1}"),
            Stage([pool], linear(lr, scale=10.0), end, name=f"fit {k + 1}"),
        ]
    return Recipe("q_sharp", stages, Budget(generated_tokens=100_000, trained_tokens=400_000), adjust)
