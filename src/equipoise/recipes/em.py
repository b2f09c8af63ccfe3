"""Entropy minimisation: the policy made surer of its own samples, without labels.

    form ft        J = (1/T) sum_t H(pi(. | y_<t)) on own samples, gradient through H alone
    form sequence  r_i = sum_t log pi(y_it)        |  A_i = r_i - mean of the other samples' r
    form token     r_i = - sum_t H(pi(. | y_<t))   |  J = - mean_i A_i sum_t log pi(y_it), r without gradient
    with kl > 0 (sequence, token):  r_i <- r_i - kl sum_t (log pi - log start)

2505.15134; only the decoder was checked against released code: forms and kl are from memory. With kl 0 form sequence is
the exact gradient of minus the entropy of whole responses, and so are form token's and form ft's (summed, not averaged)
together, neither alone. A sum over tokens also rewards brevity, and no rule says when to stop.
``descend`` > 0 evaluates with EM-INF: so many steps of Adam (rate 0.1) on each decoding step's logits, down
H(softmax z) + 0.05 KL(softmax z_0 || softmax z) until H < 0.3; the exported model does not have it.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, decoders, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About(
    title="Entropy minimisation",
    arxiv="2505.15134",
    family="rl",
    summary="Trains (or decodes) for low entropy of the model's own samples; uses no labels.",
    needs=(),
)


def em(
    task: Task,
    *,
    form: Literal["sequence", "token", "ft"] = "sequence",
    prompts: int = 8,
    samples: int = 8,
    kl: float = 0.001,
    over: objectives.Over = "token",
    descend: int = 0,
    lr: float | None = None,
) -> Recipe:
    """Args: form: "sequence" or "token" (rewards), "ft" (direct). prompts, samples: drawn a step. kl: weight of the KL
    to the start policy in the rewards. over: denominator of "ft". descend: steps of entropy descent on the
    logits where the trained policy is evaluated (0: none). lr: peak learning rate (scaled to the model)."""
    if form not in ("sequence", "token", "ft"):
        raise ArgumentError(f"form={form!r}: expected 'sequence', 'token' or 'ft'")
    source = sources.sampled(task, prompts, samples)
    if form == "ft":
        stream = Stream(source, objectives.entropy(over))
    else:
        signal = signals.certainty("likelihood" if form == "sequence" else "entropy")
        advantage = chain(credit.subtract_kl("start", kl), credit.leave_one_out())
        stream = Stream(source, objectives.score_function(), signal, advantage)
    adjust = decoders.descend_entropy(descend) if descend else None
    return Recipe("em", [Stage([stream], linear(lr))], Budget(generated_tokens=100_000), adjust)
