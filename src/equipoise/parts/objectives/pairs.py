"""Preferences between two responses."""

from __future__ import annotations

from equipoise.errors import ArgumentError
from equipoise.types import Batch, Loss, Objective, Outputs


def preference(beta: float, policy: str = "start", per_token: bool = False) -> Objective:
    """-log sigmoid(beta (D(w) - D(l))), D(y) = log pi(y) - log policy(y), for pairs with the preferred response first
    (DPO, 2305.18290). ``per_token`` divides each D by its length (Tulu 3's variant, 2411.15124)."""
    if beta <= 0:
        raise ArgumentError(f"beta={beta}: at 0 the preference loss is log 2 whatever the model says; expected above 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        from torch.nn.functional import logsigmoid

        d = batch.per_response(out.logp - batch.notes[f"logp:{policy}"])
        d = d / batch.lengths if per_token else d
        if len(d) != 2 * batch.groups:
            raise ArgumentError(f"a preference needs two responses a group; got {len(d)} in {batch.groups} groups")
        wins, losses = beta * d[0::2], beta * d[1::2]
        margin = wins - losses
        n = float(batch.groups)
        return Loss(
            -logsigmoid(margin) / max(batch.totals.groups, 1),
            {
                "rewards/chosen": (wins.detach().sum(), n),
                "rewards/rejected": (losses.detach().sum(), n),
                "rewards/margins": (margin.detach().sum(), n),
                "rewards/accuracies": ((margin.detach() > 0).to(d.dtype).sum(), n),
            },
        )

    d_of = "D(y)/|y|" if per_token else "D(y)"
    return Objective(
        loss,
        f"-log sigmoid({beta:g} (D(w) - D(l))), {d_of} over {policy}",
        "pairs of the step",
        needs=frozenset({f"logp:{policy}"}),
        scope="group",
    )


def ranked(weight: float, length: float = 1.0) -> Objective:
    """weight * sum over pairs of a group with r_i > r_j of max(0, s_j - s_i), s_i = sum_t log pi(y_it) / |y_i|^length,
    less the mean token log-prob of the response with the highest score (the first of them); mean over groups. RRHF,
    2304.05302. Ties say nothing."""
    if weight < 0:
        raise ArgumentError(f"weight={weight:g}: of the ranking term; expected at least 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        whole = batch.per_response(out.logp)
        s, mean, r, of = whole / batch.lengths**length, whole / batch.lengths, batch.reward, batch.group
        better = (of[:, None] == of[None, :]) & (r[:, None] > r[None, :])
        gap = (s[None, :] - s[:, None]).clamp(min=0.0) * better
        first = [int((r * 1.0).masked_fill(of != g, -float("inf")).argmax()) for g in range(batch.groups)]
        per_group = weight * batch.per_group(gap.sum(1)) - mean[first]
        wrong = ((gap.detach() > 0).to(s.dtype).sum(), better.to(s.dtype).sum())
        return Loss(per_group / max(batch.totals.groups, 1), {"misranked": wrong})

    s_of = f"s = log pi(y)/|y|^{length:g}"
    formula = f"{weight:g} sum_(r_i > r_j) max(0, s_j - s_i) - mean_t log pi_t of the best, {s_of}"
    return Objective(loss, formula, "groups of the step", needs=frozenset({"scores"}), scope="group")
