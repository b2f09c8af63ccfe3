"""REINFORCE leave-one-out that keeps exploring: many hot samples, an entropy bonus, a KL to a moving anchor.

    A_i = r_i - mean of the other samples' r
    J = - mean_i A_i sum_t log pi(y_it) + kl k2(pi, anchor) - entropy H(pi)
    after each step:  anchor <- (1 - rate) anchor + rate pi
    r_i <- r_i - repetition * repeated share of 4-grams - length penalty of the last ``soft`` tokens

2501.11651. rate = 0 is a fixed anchor, rate = 1 a KL without pull; without KL, bonus and penalties it is REINFORCE
leave-one-out. A KL to an anchor that moves says little, so that to the start policy is measured too, for one more pass:
rewards/kl/mean, nats a response. No code is published: kl, entropy, rate, and k2 (whose gradient is the KL's own) are
choices made here. Deviates: the supervised stage (on trial and self-check there) is on the task's demonstrations, and
off unless ``sft_share`` is set; no penalty for garbled text; temperature 1, where 1.2 is remembered.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, average, linear
from equipoise.types import Task

SUMMARY = "REINFORCE leave-one-out with an entropy bonus and a KL to a moving average of the policy."
ABOUT = About("Scaled exploration with a moving anchor", "2501.11651", "rl", SUMMARY, ("verifier",))


def t1(
    task: Task,
    *,
    prompts: int = 4,
    samples: int = 16,
    temperature: float = 1.0,
    kl: float = 0.01,
    rate: float = 0.05,
    entropy: float = 0.001,
    repetition: float = 0.0,
    soft: int = 0,
    sft_share: float = 0.0,
    log_kl: bool = True,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. temperature: of the samples. kl: weight of the KL to the anchor.
    rate: share of the policy in the anchor. entropy: weight of the bonus. repetition: weight of its penalty.
    soft: tokens before the longest response where the length penalty begins (0: none). sft_share: of the budget, for
    demonstrations first. log_kl: measure that to the start policy. lr: peak learning rate (scaled)."""
    if not 0 <= sft_share < 1:
        raise ArgumentError(f"sft_share={sft_share}: expected a share of the budget in [0, 1)")
    longest = task.max_new_tokens
    shaping = [credit.penalise_repetition(4, repetition)] if repetition else []
    shaping += [credit.penalise_length(longest - soft, longest)] if soft else []
    objective = objectives.score_function() + kl * objectives.kl("anchor", "k2") + -entropy * objectives.entropy()
    shaping += [credit.measure_kl("start")] if log_kl else []
    draw, shaped = sources.sampled(task, prompts, samples, temperature), chain(*shaping, credit.leave_one_out())
    reinforce = Stream(draw, objective, signals.verified(task), shaped)
    stages = [Stage([reinforce], linear(lr), events=[average("anchor", rate)])]
    if sft_share:
        imitate = Stream(sources.demonstrations(task, 32), objectives.likelihood("token"))
        stages.insert(0, Stage([imitate], linear(lr), sft_share, name="sft"))
    return Recipe("t1", stages, Budget(generated_tokens=100_000, trained_tokens=100_000 if sft_share else None))
