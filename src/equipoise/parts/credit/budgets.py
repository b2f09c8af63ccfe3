"""Credit where budgets of tokens are part of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.credit.groups import Array, noted, per_response, values, with_advantage
from equipoise.protocols import Part, lift
from equipoise.types import FAILED, Group, Note, Score

Prior = Literal["uniform", "linear", "base"]


def worth(length: float, budget: float, longest: int, gain: float = 4.0) -> float:
    """min(g cos(pi l / 2L) - |l - b| / L, g cos(pi b / 2L)) of a right response of l tokens; b: budget; L: longest."""
    return min(most(length, longest, gain) - abs(length - budget) / longest, most(budget, longest, gain))


def most(budget: float, longest: int, gain: float = 4.0) -> float:
    """g cos(pi b / 2L): the most that a budget pays."""
    return float(gain * np.cos(np.pi * budget / (2 * longest)))


def pay_by_budget(longest: int, gain: float = 4.0) -> Part:
    """r = ``worth`` of a right response of at most L tokens under its "budget", 0 of a wrong one, -1 of an unreadable
    one. l counts its own tokens."""

    def one(own: int, budget: float, s: Score) -> Score:
        if s.status in FAILED:
            return s
        paid = worth(own, budget, longest, gain) if s.status == "right" and own <= longest else 0.0
        return replace(s, value=-1.0 if s.status == "unparsed" else paid, parts={**s.parts, "verdict": s.value})

    def f(group: Group) -> Group:
        own = [int(r.trained.sum()) for r in group.responses]
        rows = zip(own, per_response(group, "budget"), group.scores, strict=True)
        return replace(group, scores=tuple(one(n, float(b), s) for n, b, s in rows))

    return lift(f"pay_by_budget({longest}, {gain:g})", f, ["scores", "note:budget"], ["scores"])


def compare_budgets(longest: int, gain: float = 4.0, eps: float = 1e-6) -> Part:
    """A = (r - mean) / (std + eps) over the whole group, plus mean r of the responses under the same budget less
    ``most`` of that budget: one number for each budget, never above 0."""

    def f(group: Group) -> Group:
        (r, live), budget = values(group), per_response(group, "budget")
        a = np.zeros(len(r))
        if live.any() and r[live].max() > r[live].min():
            a = (r - r[live].mean()) / (r[live].std() + eps)
        for b in np.unique(budget[live]):
            mine = live & (budget == b)
            a[mine] += r[mine].mean() - most(b, longest, gain)
        return with_advantage(group, np.where(live, a, 0.0))

    return lift(f"compare_budgets({longest}, {gain:g})", f, ["scores", "note:budget"], ["advantage"])


def prior(kind: Prior, n: int) -> Array:
    """Probabilities [n] of being stopped at each budget: equal, rising in a line, or all on the last."""
    weights = {"uniform": np.ones(n), "linear": np.arange(1.0, n + 1), "base": np.eye(n)[-1]}
    if kind not in weights:
        raise ArgumentError(f"prior={kind!r}: expected 'uniform', 'linear' or 'base'")
    return np.asarray(weights[kind] / weights[kind].sum())


def anytime(q: Array, p: Array) -> Array:
    """Advantages [G, S] of the tokens between one budget and the next, from mean verdicts q [G, S] at S budgets, prior
    p [S]. ret_s = sum_(u>=s) p_u q_u; A = ret_s - (s V1 + (S - s) V2) / S; s from 0;
    V1 = sum_(u<s) 2^u q_u / sum_(u<s) 2^u sum_(u>=s) p_u of the same trace; V2: mean ret_s of the group."""
    size = len(p)
    ret = np.cumsum((q * p)[:, ::-1], axis=1)[:, ::-1]
    left, powers = np.cumsum(p[::-1])[::-1], 2.0 ** np.arange(size)
    a = np.zeros_like(q)
    for s in range(size):
        v1 = q[:, :s] @ powers[:s] / powers[:s].sum() * left[s] if s else np.zeros(len(q))
        a[:, s] = ret[:, s] - (s * v1 + (size - s) * ret[:, s].mean()) / size
    return a


def credit_anytime(budgets: Sequence[int], kind: Prior = "uniform") -> Part:
    """Token advantages of the groups of ``sources.interrupted``: ``anytime`` in traces, and in summaries the verdict
    less the mean of the summaries at the same cut. A trace's score becomes its ret_0. 2505.13438."""
    p, ends = prior(kind, len(budgets)), np.array(budgets)

    def f(group: Group) -> Group:
        (r, live), trace, cut = values(group), per_response(group, "trace"), per_response(group, "cut")
        thoughts = np.flatnonzero(cut < 0)
        means = np.zeros(len(r))
        q = np.zeros((len(thoughts), len(ends)))
        for i in thoughts:
            for c in np.unique(cut[(trace == i) & (cut >= 0)]):
                mine = (trace == i) & (cut == c) & live
                means[(trace == i) & (cut == c)] = r[mine].mean() if mine.any() else 0.0
            mine = (trace == i) & (cut >= 0)
            last = cut[mine].max()  # a trace that ended early keeps its last summaries' mean
            q[i] = [means[mine & (cut == min(b, last))][0] for b in ends]
        a, scores = anytime(q, p), list(group.scores)
        tokens: list[Array] = []
        for k, response in enumerate(group.responses):
            full = np.full(len(response.ids), r[k] - means[k] if live[k] else 0.0)
            if cut[k] < 0:
                section = np.minimum(np.searchsorted(ends, np.arange(len(response.ids)), side="right"), len(ends) - 1)
                full = a[k][section]
                scores[k] = replace(scores[k], value=float(q[k] @ p), parts={**scores[k].parts, "itself": float(r[k])})
            tokens.append(full)
        return noted(replace(group, scores=tuple(scores)), advantage=Note("token", tuple(tokens)))

    return lift(f"credit_anytime({kind} over {','.join(map(str, budgets))})", f, ["scores", "note:cut"], ["advantage"])
