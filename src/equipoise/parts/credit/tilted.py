"""Rewards as evidence: the policy that maximises E[r] - b KL(pi || anchor) is p*(y) = anchor(y) exp(r(y)/b) / Z(x),
and V*(x) = b log Z(x)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import Array, noted, values, with_advantage
from equipoise.protocols import Context, Part, State
from equipoise.types import Group, Note


def soft_mean(r: Array, beta: float) -> float:
    """b log mean exp(r_i / b): between the mean (b to infinity) and the maximum (b to 0) of r [N]; stable."""
    if np.isinf(beta):
        return float(r.mean())
    peak = float(r.max())
    return peak + beta * float(np.log(np.mean(np.exp((r - peak) / beta))))


def subtract_soft_value(store: str, beta: float) -> Part:
    """A = r - V*(x), V* = b log mean exp(r/b) over the responses to the prompt in a store, whose policy is the anchor.
    V* is noted as "soft_value". Raises ArgumentError for a prompt that the store does not hold."""
    if not beta > 0:
        raise ArgumentError(f"beta={beta}: of the values of stored samples; expected above 0 (inf: their mean)")

    def one(group: Group, known: dict[str, Array]) -> Group:
        if group.prompt.id not in known:
            raise ArgumentError(
                f"prompt {group.prompt.id!r} has no scored response in the store {store!r} ({len(known)} others do); "
                "draw from the prompts of the store: sampled(..., among=prompts_of(store))"
            )
        v = soft_mean(known[group.prompt.id], beta)
        r, live = values(group)
        return noted(with_advantage(group, np.where(live, r - v, 0.0)), soft_value=Note("group", (np.array([v]),)))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        wanted = {g.prompt.id for g in groups}
        found: dict[str, list[Array]] = {}
        for g in ctx.stores.get(store, ()):
            if g.prompt.id in wanted:
                r, live = values(g)
                found.setdefault(g.prompt.id, []).append(r[live])
        known = {name: np.concatenate(mine) for name, mine in found.items() if sum(map(len, mine))}
        return [one(g, known) for g in groups], state

    return Part(f"subtract_soft_value({store}, {beta:g})", run, frozenset({"scores"}), frozenset({"advantage"}))


def posterior_weights(beta: float, policy: str = "start", centred: bool = True) -> Part:
    """A_i = N w_i - 1 (N w_i if not ``centred``), w_i proportional to policy(y_i) exp(r_i / b) / sampler(y_i), summing
    to 1 over the group's verdicts: p* over the sampler, normalised for each prompt by its own samples. With
    ``score_function`` the gradient of KL(p* || pi). Centring is right only where pi itself sampled."""
    if not 0 < beta < np.inf:
        raise ArgumentError(f"beta={beta}: the temperature of exp(r / beta); expected a number above 0")

    def one(group: Group, anchor: Sequence[NDArray[np.floating]]) -> Group:
        r, live = values(group)
        log_w = np.full(len(r), -np.inf)
        for i in np.flatnonzero(live).tolist():
            response = group.responses[i]
            assert response.logprobs is not None
            gap = np.asarray(anchor[i] - response.logprobs, dtype=np.float64)
            log_w[i] = r[i] / beta + float(gap[response.trained].sum())
        if not live.any():
            return with_advantage(group, np.zeros(len(r)))
        w = np.exp(log_w - log_w.max())
        return with_advantage(group, np.where(live, live.sum() * w / w.sum() - float(centred), 0.0))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        outs = ctx.engine.outputs(groups, ["logp"], policy) if groups else []
        return [one(g, out["logp"]) for g, out in zip(groups, outs, strict=True)], state

    label = f"posterior_weights({policy} exp(r/{beta:g})){' - 1' if centred else ''}"
    return Part(label, run, frozenset({"scores", f"policy:{policy}"}), frozenset({"advantage"}))
