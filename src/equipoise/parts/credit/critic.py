"""What comes after a token, with and without a value head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import Array, noted, values
from equipoise.protocols import Context, Part, State
from equipoise.types import Group, Note


def advantages(rewards: Array, v: Array, gamma: float, lam: float) -> Array:
    """Generalised advantage estimates [n] for token rewards [n] and values [n] before each token; nothing after the
    end. delta_t = r_t + gamma V_(t+1) - V_t; A_t = delta_t + gamma lam A_(t+1). GAE, 1506.02438."""
    a, ahead, v_next = np.zeros_like(v), 0.0, 0.0
    for t in reversed(range(len(v))):
        ahead = rewards[t] + gamma * v_next - v[t] + gamma * lam * ahead
        a[t], v_next = ahead, v[t]
    return a


def returns(gamma: float = 1.0, kl: float = 0.0, policy: str = "start") -> Part:
    """A_t = sum over u >= t of gamma^(u-t) R_u, where R_u = -kl (log pi_sampler - log pi_policy) of token u, plus the
    score at the last trained token. No baseline."""
    if not 0 < gamma <= 1:
        raise ArgumentError(f"gamma={gamma}: expected a discount in (0, 1]")

    def one(group: Group, anchor: Sequence[NDArray[np.floating]] | None) -> Group:
        a = []
        for i, (response, s) in enumerate(zip(group.responses, group.scores, strict=True)):
            mask, full = response.trained, np.zeros(len(response.ids))
            if mask.any():  # not after a failed verdict
                rewards = np.zeros(int(mask.sum()))
                if anchor is not None:
                    assert response.logprobs is not None
                    rewards -= kl * (response.logprobs - anchor[i])[mask]
                rewards[-1] += s.value
                full[mask] = advantages(rewards, np.zeros(len(rewards)), gamma, 1.0)
            a.append(full)
        return noted(group, advantage=Note("token", tuple(a)))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        if kl == 0:
            return [one(g, None) for g in groups], state
        outs = ctx.engine.outputs(groups, ["logp"], policy)
        return [one(g, out["logp"]) for g, out in zip(groups, outs, strict=True)], state

    needs = frozenset({"scores"} | ({f"policy:{policy}"} if kl else set()))
    name = f"returns({gamma:g}, -{kl:g} k1(pi, {policy}))" if kl else f"returns({gamma:g})"
    return Part(name, run, needs, frozenset({"advantage"}))


def gae(gamma: float = 1.0, lam: float = 0.95, *, kl: float = 0.0, policy: str = "start", head: str = "value") -> Part:
    """Token advantages from the value head ``head``, and the notes "value" and "return" (before whitening) for its
    loss. Token rewards are -kl (log pi_sampler - log pi_policy), and the score at the last trained token; untrained
    tokens are skipped when bootstrapping."""

    def one(
        group: Group, heads: Sequence[NDArray[np.floating]], anchor: Sequence[NDArray[np.floating]] | None
    ) -> Group:
        r, live = values(group)
        notes: dict[str, list[Array]] = {"advantage": [], "value": [], "return": []}
        for i, (response, out) in enumerate(zip(group.responses, heads, strict=True)):
            mask = response.trained
            old = np.asarray(out, dtype=np.float64).reshape(len(response.ids))[mask]
            rewards = np.zeros(len(old))
            if anchor is not None:
                assert response.logprobs is not None
                rewards -= kl * (response.logprobs - anchor[i])[mask]
            if len(old):
                rewards[-1] += r[i] if live[i] else 0.0
            got = advantages(rewards, old, gamma, lam)
            for name, x in (("advantage", got), ("value", old), ("return", got + old)):
                full = np.zeros(len(response.ids))
                full[mask] = x
                notes[name].append(full)
        return noted(group, **{name: Note("token", tuple(x)) for name, x in notes.items()})

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        outs = ctx.engine.outputs(groups, [f"head:{head}"]) if groups else []
        read = ctx.engine.outputs(groups, ["logp"], policy) if kl and groups else []
        anchors = [out["logp"] for out in read] if kl else [None] * len(groups)
        both = zip(groups, outs, anchors, strict=True)
        return [one(g, out[f"head:{head}"], anchor) for g, out, anchor in both], state

    needs = frozenset({"scores", f"head:{head}", *([f"policy:{policy}"] if kl else [])})
    gives = frozenset({"advantage", "note:value", "note:return"})
    terms = f", -{kl:g} k1(pi, {policy})" * (kl != 0) + f", {head}" * (head != "value")
    return Part(f"gae({gamma:g}, {lam:g}{terms})", run, needs, gives)
