"""Instruction following behind a gate: what passes the verifier must also do what was asked.

    r = -1 if cut off at the longest length;  1 if the verifier says right and then every check approves;  else 0
    1. ``probe_share`` of the budget: samples of the start policy; kept are prompts with low <= mean [r = 1] <= high
    2. A_i = (r_i - mean) / (std + eps);  J = mean_i (1/|y_i|) sum_t max(-A_i rho_t, -A_i clip(rho_t, 1-clip, 1+clip))

2508.04632 and its code. A check is a part of the verifier's score, the user's module:function, or "start": the start
policy is asked whether the reply does what the request without its constraints wants, read at "yes" and "no", and
charged. The part "refused" says which right replies a check stopped. Trip wires are the held-out items of tasks that
know a shortcut when they see one (``instruct``, ``mentioned:<task>``): their part "exploit" is reported, not rewarded.
Deviates: the judge is a program or the model itself, a larger model there; no model makes instructions harder; one
policy measures the band, whose limits are of two there. Without checks, band and ``truncated`` it is GRPO.
"""

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe, Stage, Stream, linear
from equipoise.types import Task
from equipoise.verify import named

SUMMARY = "GRPO on prompts of middling pass rate; a reward must also pass checks of what was meant."
ABOUT = About("Guarded instruction following (IFDecorator)", "2508.04632", "rl", SUMMARY, ("verifier",))


def ifdecorator(
    task: Task,
    *,
    prompts: int = 8,
    samples: int = 8,
    checks: tuple[str, ...] = ("topic",),
    truncated: float = -1.0,
    low: float = 0.032,
    high: float = 0.5,
    probe_share: float = 0.1,
    clip: float = 0.2,
    lr: float | None = None,
) -> Recipe:
    """Args: prompts, samples: drawn a step. checks: parts of the score, module:function, or start; none: no gate.
    truncated: reward of a reply that did not end. low, high: band of pass rates. probe_share: of the budget, to measure
    them (0: all prompts). clip: of the ratio. lr: peak learning rate (scaled to the model)."""
    if not 0 <= probe_share < 1:
        raise ArgumentError(f"probe_share={probe_share}: expected a share of the budget in [0, 1)")
    verdict = chain(signals.verified(task), signals.gated(*map(_check, checks), truncated=truncated))
    among, draw = sources.rated("probed", low, high), sources.sampled(task, prompts, samples)
    chosen = sources.sampled(task, prompts, samples, among=among) if probe_share else draw
    advantage = chain(credit.center(), credit.divide_by_std())
    stages = [Stage([Stream(chosen, objectives.clipped(clip, clip), verdict, advantage)], linear(lr))]
    if probe_share:
        stages.insert(0, Stage([Stream(draw, None, verdict, store="probed")], linear(lr), probe_share, name="probe"))
    return Recipe("ifdecorator", stages, Budget(generated_tokens=100_000))


def _check(name: str) -> signals.Check:
    if ":" in name:
        return signals.by_function(name, named(name).verify)
    return signals.by_policy("start") if name == "start" else signals.by_part(name)
