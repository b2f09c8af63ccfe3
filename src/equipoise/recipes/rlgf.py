"""PPO with a guide that begins or finishes responses.

    ppo++       with probability beta the guide says the first k tokens, k random; the policy goes on
    aggrevated  with probability beta the policy is cut after k tokens, k random, and the guide finishes
    lols        both, ppo++ for ``tau`` of a step's prompts;  d2lols  aggrevated until ``tau`` of the budget, then ppo++
    J = mean over the policy's own tokens of clipped(A rho) + vf value error;  A: GAE, whitened

2306.11816, following the authors' code; beta = 0 is PPO. Each way has a critic of its own. guide "trained": base after
demonstrations for ``guide_share`` of the budget; the policy then starts from base again. Deviates: one cut a prompt in
ppo++; lols tosses no coin but splits a step's prompts; tau of d2lols is a share of the budget, not a number of steps.
"""

from typing import Literal

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.parts import credit, objectives, signals, sources
from equipoise.protocols import chain
from equipoise.recipe import About, Event, Recipe, Stage, Stream, linear
from equipoise.types import Task

ABOUT = About("RL with a guide", "2306.11816", "rl", "PPO with a guide's help.", ("verifier", "demonstrations"))


def rlgf(
    task: Task,
    *,
    way: Literal["ppo++", "aggrevated", "lols", "d2lols"] = "ppo++",
    guide: Literal["trained", "demonstrations", "base"] = "trained",
    guide_share: float = 0.2,
    beta: float = 0.8,
    tau: float = 0.5,
    prompts: int = 8,
    samples: int = 8,
    clip: float = 0.2,
    vf: float = 0.1,
    lr: float | None = None,
) -> Recipe:
    """Args: way, tau, guide: see above. guide_share: of the budget, to train it. beta: how often it takes part.
    prompts, samples: drawn a step. clip: of ratio and values. vf: weight of the value error. lr: peak learning rate."""
    share, many = guide_share * (guide == "trained"), max(1, min(round(tau * prompts), prompts - 1))
    if not 0 <= share < 1 or not 0 < tau < 1 or prompts < 2:
        raise ArgumentError(f"{guide_share=}, {tau=}, {prompts=}: expected shares in (0, 1) and at least 2 prompts")
    name, verdict = "guide" if guide == "trained" else guide, signals.verified(task)

    def stream(begun: bool, n: int, weight: float = 1.0) -> Stream:
        draw, head = (sources.rolled_in, "value") if begun else (sources.rolled_out, "guided")
        advantage = chain(credit.gae(head=head), credit.whiten())
        objective = objectives.clipped(clip, clip, "token") + vf * objectives.value_error(clip, "token", head)
        return Stream(draw(task, n, samples, name, beta), weight * objective, verdict, advantage)

    plan = [[stream(begun, prompts)] for begun in {"ppo++": [True], "aggrevated": [False]}.get(way, [False, True])]
    plan = [[stream(True, many, tau), stream(False, prompts - many, 1 - tau)]] if way == "lols" else plan
    ends = [share + tau * (1 - share), 1.0][-len(plan) :]
    stages = [Stage(s, linear(lr), ends[k], not k and share > 0, f"{way} {k}") for k, s in enumerate(plan)]
    if share:
        first, kept = sources.demonstrations(task, 32), [Event("guide", {"current": 1.0})]
        imitate = Stream(first, objectives.likelihood("token"))
        stages.insert(0, Stage([imitate], linear(lr, scale=2.0), share, name="guide", events=kept))
    return Recipe("rlgf", stages, Budget(generated_tokens=100_000, trained_tokens=100_000 if share else None))
