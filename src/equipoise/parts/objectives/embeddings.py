"""Embeddings of responses, drawn towards that of a demonstration and away from each other."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from equipoise.errors import ArgumentError
from equipoise.types import Batch, Group, Loss, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor

Sample = Literal["right", "wrong"]


def near_demonstration(of: Sample, head: str, tau: float = 0.2, cap: float = 0.9, weigh: str = "value") -> Objective:
    """log sum_c exp(cos(a, c) / tau) - min(cos(e, d), cap) / tau, mean over the right or the wrong samples that
    "note:contrast" marks. Means over tokens of the projection ``head``, weighed by exp of the head ``weigh``: d of the
    demonstration, a constant; e of the sample; c of every sample of the update.

    right: a = d, e over all tokens, c = every e. wrong: a = e over the tokens in common with the demonstration, d over
    its other tokens, c = every such e, and every sample's mean over its other tokens. 2508.15868."""
    if of not in ("right", "wrong"):
        raise ArgumentError(f"of={of!r}: expected 'right' or 'wrong'")
    if tau <= 0 or not -1 < cap <= 1:
        raise ArgumentError(f"tau={tau:g}, cap={cap:g}: expected a temperature above 0 and a cosine in (-1, 1]")
    sign, total = 1.0 if of == "right" else -1.0, f"contrast_{of}"

    def loss(out: Outputs, batch: Batch) -> Loss:
        import torch

        z, v, common = out.heads[head], out.heads[weigh][:, 0], batch.notes["common"] > 0.5
        demonstrated, picked = batch.notes["demonstrated"], batch.notes["contrast"] == sign
        if of == "right":
            e, there = _mean(z, v, torch.ones_like(common), batch)
            others = _cosines(demonstrated, e)
        else:
            (e, has), (rest, left) = _mean(z, v, common, batch), _mean(z, v, ~common, batch)
            others, there = _cosines(e, torch.cat([e, rest])), torch.cat([has, left])
        near = _cosines(e, demonstrated).diagonal()[picked].clamp(max=cap)
        far = (others[picked] / tau).masked_fill(~there, -inf).logsumexp(1)
        error = e.new_zeros(len(picked)).masked_scatter(picked, far - near / tau)
        found = {total: (error.detach().sum(), float(picked.sum()))}
        return Loss(batch.per_group(error) / max(batch.totals.extra[total], 1.0), found)

    def share(group: Group) -> float:
        marks = zip(group.responses, group.notes["contrast"].values[0], strict=True)
        return float(sum(mark == sign and bool(r.trained.any()) for r, mark in marks))

    a = "d" if of == "right" else "e"
    formula = f"{of}: log sum_c exp(cos({a}, c)/{tau:g}) - min(cos(e, d), {cap:g})/{tau:g}"
    needs = frozenset({f"head:{head}", f"head:{weigh}", "note:demonstrated"})
    return Objective(loss, formula, f"{of} samples compared", needs, scope="batch", totals={total: share})


def _mean(z: Tensor, v: Tensor, keep: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean of ``z`` [T, K] over the tokens to ``keep`` [T] of each response, weighed by exp(v): [R, K], 0 where there
    are none; and where there are some [R]."""
    low = z.new_full((len(batch.group),), -inf)
    low = low.scatter_reduce(0, batch.response, v.detach().where(keep, low.new_tensor(-inf)), "amax")
    has = low.isfinite()
    weight = (v - low.where(has, low.new_zeros(()))[batch.response]).where(keep, low.new_tensor(-inf)).exp()
    sums = z.new_zeros(len(batch.group), z.shape[1]).index_add(0, batch.response, weight[:, None] * z)
    return sums / batch.per_response(weight).where(has, low.new_ones(()))[:, None], has


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """[A, K], [B, K] -> [A, B]."""
    from torch.nn.functional import normalize

    return normalize(a, dim=1) @ normalize(b, dim=1).T
