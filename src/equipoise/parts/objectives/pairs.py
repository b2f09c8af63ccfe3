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
