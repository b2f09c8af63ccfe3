"""Terms added to a score before it is compared."""

from __future__ import annotations

from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import Group


def penalise_length(free: int, limit: int) -> Part:
    """DAPO's soft overlong penalty (2503.14476): 0 up to ``free`` tokens, then linearly down to -1 at ``limit``."""
    if not 0 <= free < limit:
        raise ArgumentError(f"penalise_length: free={free}, limit={limit}; expected 0 <= free < limit")

    def f(group: Group) -> Group:
        shaped = []
        for r, s in zip(group.responses, group.scores, strict=True):
            penalty = -min(max(len(r.ids) - free, 0) / (limit - free), 1.0)
            shaped.append(replace(s, value=s.value + penalty, parts={**s.parts, "length_penalty": penalty}))
        return replace(group, scores=tuple(shaped))

    return lift(f"penalise_length({free}, {limit})", f, ["scores"], ["scores"])


def subtract_kl(policy: str, beta: float) -> Part:
    """r_i - beta * sum_t (log pi_sampler - log pi_policy): the k1 estimate of KL, inside the reward."""
    return _with_kl(policy, beta, f"subtract_kl({policy}, {beta:g})") if beta else lift("no KL", lambda g: g)


def measure_kl(policy: str) -> Part:
    """The same estimate as the part "kl" of a score, which it leaves as it is: KL(pi_sampler || policy), nats a
    response, for one more pass."""
    return _with_kl(policy, 0.0, f"measure_kl({policy})")


def _with_kl(policy: str, beta: float, name: str) -> Part:
    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        after = []
        for g, out in zip(groups, ctx.engine.outputs(groups, ["logp"], policy), strict=True):
            scores = []
            for r, s, ref in zip(g.responses, g.scores, out["logp"], strict=True):
                assert r.logprobs is not None
                k1 = float((r.logprobs - ref)[r.trained].sum())
                scores.append(replace(s, value=s.value - beta * k1, parts={**s.parts, "kl": k1}))
            after.append(replace(g, scores=tuple(scores)))
        return after, state

    return Part(name, run, frozenset({"scores", f"policy:{policy}"}), frozenset({"scores"}))
