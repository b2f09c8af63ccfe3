"""GRPO for small reasoners, in three forms: hard prompts only, mixed prompts, mixed prompts and a reward for brevity.

    r = form [formed] + 2 v;  v = 1 if right, else 0; or, ``cosine``, with l tokens of at most L:
        right: 0.5 + 0.25 (1 + cos(pi l / L)), from 1 down to 0.5;  wrong: -0.5 + 0.25 (1 + cos(pi l / L)), 0 to -0.5
    A_i = (r_i - mean) / (std + 1e-4);  J = mean_i (1/|y_i|) sum_t [clipped(A_i rho_t) + kl k3(pi, start)_t]
    ``hardest`` < 1: first samples of the start policy; training on prompts it answers right at most that often

2503.16219 and its code (the losses of early 2025, KL on). A long wrong answer costs more than a short one, as in the
released settings; the cosine reward's authors do the reverse. Deviates: l counts tokens and stops at L, the longest
response (characters, unlimited, there, so that right ones beyond gain again); the weight 2 of v is that of its third
run; the form holds where an answer can be read, unless ``pattern``; hard sets are measured, not chosen by source.
"""

from equipoise.budget import Budget
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task

SUMMARY = "GRPO on hard or on all prompts, with rewards for form and, if wanted, brevity on a cosine."
ABOUT = About("Reinforcement learning for small reasoners (Open-RS)", "2503.16219", "rl", SUMMARY, ("verifier",))


def open_rs(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 6,
    temperature: float = 0.7,
    cosine: bool = True,
    form: float = 1.0,
    pattern: str = "",
    hardest: float = 1.0,
    probe_share: float = 0.1,
    kl: float = 0.04,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. temperature: of the samples. cosine: pay by length too. form: its weight.
    pattern: that the whole reply must match; empty: an answer can be read. hardest: pass rate of the start policy up
    to which prompts are used (1: all). probe_share: of the budget, to measure it. kl: weight of the KL to the policy
    when the stage began. lr: peak learning rate (scaled to the model)."""
    verdict, among = signals.verified(task), sources.rated("probed", 0.0, hardest) if hardest < 1 else None
    shape = ((1.0, 0.5), (0.0, -0.5)) if cosine else ((1.0, 1.0), (0.0, 0.0))
    train = Stream(
        source=sources.sampled(task, prompts, samples, temperature, among=among),
        signal=chain(verdict, signals.cosine(task.max_new_tokens, *shape, weight=2.0), signals.add_form(form, pattern)),
        credit=chain(credit.center(), credit.divide_by_std(1e-4)),
        objective=objectives.clipped(0.2, 0.2) + kl * objectives.kl("start"),
    )
    stages = [Stage([train], linear(lr))]
    if among:
        probe = Stream(sources.sampled(task, prompts, samples, temperature), None, verdict, store="probed")
        stages.insert(0, Stage([probe], linear(lr), probe_share, name="probe"))
    return Recipe("open_rs", stages, Budget(generated_tokens=100_000))
