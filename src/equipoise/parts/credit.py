"""From scores to advantages. Statistics leave out failed verdicts; groups of equal scores get exactly 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.protocols import Context, Part, State, lift
from equipoise.types import FAILED, Group, Note

Array = NDArray[np.float64]


def values(group: Group) -> tuple[Array, NDArray[np.bool_]]:
    """Scores [N] and which of them are verdicts [N]."""
    live = np.array([s.status not in FAILED for s in group.scores])
    return np.array([s.value for s in group.scores], dtype=np.float64), live


def noted(group: Group, **notes: Note) -> Group:
    """The group with more notes."""
    return replace(group, notes={**group.notes, **notes})


def per_response(group: Group, name: str) -> Array:
    """A response note's values [N]."""
    return np.asarray(group.notes[name].values[0], dtype=np.float64)


def _with_advantage(group: Group, a: Array) -> Group:
    return noted(group, advantage=Note("response", (a,)))


def _centered(group: Group) -> tuple[Array, NDArray[np.bool_]]:
    r, live = values(group)
    known = r[live]
    if len(known) == 0 or known.max() == known.min():  # exact: no float noise where nothing differs
        return np.zeros(len(r)), live
    return np.where(live, r - known.mean(), 0.0), live


def center() -> Part:
    """A_i = r_i - mean of the group."""
    return lift("center", lambda g: _with_advantage(g, _centered(g)[0]), ["scores"], ["advantage"])


def leave_one_out() -> Part:
    """A_i = r_i - mean of the group's others = N/(N-1) (r_i - mean). Kool et al. 2019; RLOO, 2402.14740."""

    def f(group: Group) -> Group:
        a, live = _centered(group)
        n = int(live.sum())
        return _with_advantage(group, a * (n / (n - 1) if n > 1 else 0.0))

    return lift("leave_one_out", f, ["scores"], ["advantage"])


def divide_by_std(eps: float = 1e-6) -> Part:
    """A_i / (population standard deviation of the group's scores + eps). For rewards of 0 and 1 and pass rate p the
    deviation is sqrt(p(1-p))."""

    def f(group: Group) -> Group:
        r, live = values(group)
        a = per_response(group, "advantage")
        if not a.any():
            return group
        return _with_advantage(group, a / (float(r[live].std()) + eps))

    return lift("divide_by_std(group)", f, ["advantage", "scores"], ["advantage"])


def pass_rate() -> Part:
    """Note the share of right responses in the group, to every response: what the sampling policy's success was."""

    def f(group: Group) -> Group:
        live = [s for s in group.scores if s.status not in FAILED]
        share = sum(s.status == "right" for s in live) / max(len(live), 1)
        return noted(
            group,
            pass_rate=Note("response", (np.full(len(group.responses), share),)),
            right=Note("response", (np.array([float(s.status == "right") for s in group.scores]),)),
        )

    return lift("pass_rate", f, ["scores"], ["note:pass_rate"])


def keep_mixed() -> Part:
    """Drop groups whose scores are all equal: they say nothing about what to prefer. They stay charged and recorded."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        kept: list[Group] = []
        for g in groups:
            r, live = values(g)
            mixed = bool(live.any()) and r[live].max() > r[live].min()
            (kept if mixed else ctx.dropped).append(g)
        return kept, state

    return Part("keep_mixed", run, needs=frozenset({"scores"}))


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
    if beta == 0:
        return lift("no KL", lambda g: g)

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

    return Part(
        f"subtract_kl({policy}, {beta:g})", run, frozenset({"scores", f"policy:{policy}"}), frozenset({"scores"})
    )


def advantages(rewards: Array, v: Array, gamma: float, lam: float) -> Array:
    """Generalised advantage estimates [n] for token rewards [n] and values [n] before each token; nothing after the
    end. delta_t = r_t + gamma V_(t+1) - V_t; A_t = delta_t + gamma lam A_(t+1). GAE, 1506.02438."""
    a, ahead, v_next = np.zeros_like(v), 0.0, 0.0
    for t in reversed(range(len(v))):
        ahead = rewards[t] + gamma * v_next - v[t] + gamma * lam * ahead
        a[t], v_next = ahead, v[t]
    return a


def gae(gamma: float = 1.0, lam: float = 0.95) -> Part:
    """Token advantages from the value head, and the notes "value" and "return" (before whitening) for its loss.

    The score arrives at the last trained token; untrained tokens are skipped when bootstrapping."""

    def one(group: Group, heads: tuple[NDArray[np.floating], ...]) -> Group:
        r, live = values(group)
        a: list[Array] = []
        v: list[Array] = []
        ret: list[Array] = []
        for i, (response, head) in enumerate(zip(group.responses, heads, strict=True)):
            mask = response.trained
            old = np.asarray(head, dtype=np.float64).reshape(len(response.ids))[mask]
            rewards = np.zeros(len(old))
            if len(old):
                rewards[-1] = r[i] if live[i] else 0.0
            got = advantages(rewards, old, gamma, lam)
            for store, x in ((a, got), (v, old), (ret, got + old)):
                full = np.zeros(len(response.ids))
                full[mask] = x
                store.append(full)
        return noted(
            group,
            advantage=Note("token", tuple(a)),
            value=Note("token", tuple(v)),
            **{"return": Note("token", tuple(ret))},
        )

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        outs = ctx.engine.outputs(groups, ["head:value"]) if groups else []
        return [one(g, out["head:value"]) for g, out in zip(groups, outs, strict=True)], state

    gives = frozenset({"advantage", "note:value", "note:return"})
    return Part(f"gae({gamma:g}, {lam:g})", run, frozenset({"scores", "head:value"}), gives)


def whiten(eps: float = 1e-8) -> Part:
    """Advantages to mean 0 and population variance 1 over all trained tokens of the step."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        flat = [a[r.trained] for g in groups for a, r in zip(g.notes["advantage"].values, g.responses, strict=True)]
        every = np.concatenate(flat) if flat else np.zeros(0)
        if len(every) < 2:
            return groups, state
        mean, std = float(every.mean()), float(every.std())
        after = []
        for g in groups:
            a = [
                np.where(r.trained, (x - mean) / (std + eps), 0.0)
                for x, r in zip(g.notes["advantage"].values, g.responses, strict=True)
            ]
            after.append(noted(g, advantage=Note("token", tuple(a))))
        return after, state

    return Part("whiten", run, frozenset({"advantage"}), frozenset({"advantage"}))
