"""Right and wrong responses, each with a denominator of its own; and a head that tells them apart."""

from __future__ import annotations

from collections.abc import Callable

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import denominator, log_ratio
from equipoise.types import Batch, Group, Loss, Objective, Outputs


def right_and_wrong(wrong: float = 0.5, separate: bool = True) -> Objective:
    """Right: -A_t log pi_t / trained tokens of right responses; wrong: -wrong A_t rho_t / those of wrong ones. Neither
    kind dilutes the other; not ``separate``: both are divided by all trained tokens. 2502.06781."""
    if wrong < 0:
        raise ArgumentError(f"wrong={wrong}: the weight of wrong responses; expected at least 0")

    def loss(out: Outputs, batch: Batch) -> Loss:
        right = batch.notes["right"][batch.response] > 0.5
        kernel = out.logp.where(right, wrong * log_ratio(out, batch).exp())
        per_token = -batch.advantage * kernel
        n, totals = float(batch.totals.tokens), batch.totals.extra
        per_right, per_wrong = (totals["right_tokens"], totals["wrong_tokens"]) if separate else (n, n)
        per_token = (per_token / max(per_right, 1)).where(right, per_token / max(per_wrong, 1))
        return Loss(batch.per_group(batch.per_response(per_token)))

    return Objective(
        loss,
        f"right: -A log pi_t; wrong: -{wrong:g} A rho_t",
        "trained tokens of right, of wrong responses of the step" if separate else denominator("token"),
        needs=frozenset({"advantage", "note:right"}),
        silent=True,
        totals={"right_tokens": _tokens(True), "wrong_tokens": _tokens(False)} if separate else {},
    )


def _tokens(right: bool) -> Callable[[Group], float]:
    """Trained tokens of a group's right, or other, responses."""

    def share(group: Group) -> float:
        pairs = zip(group.responses, group.scores, strict=True)
        return float(sum(int(r.trained.sum()) for r, s in pairs if (s.status == "right") == right))

    return share


def outcome(head: str) -> Objective:
    """Cross-entropy of right or wrong against sigmoid(mean over a response's tokens of the head): a classifier of
    responses that can be read after any token."""

    def loss(out: Outputs, batch: Batch) -> Loss:
        from torch.nn.functional import binary_cross_entropy_with_logits

        x = batch.per_response(out.heads[head][:, 0]) / batch.lengths
        right = batch.notes["right"]
        error = binary_cross_entropy_with_logits(x, right, reduction="none")
        hits = ((x.detach() > 0) == (right > 0.5)).to(x.dtype).sum()
        n = float(len(error))
        metrics = {f"{head}_loss": (error.detach().sum(), n), f"{head}_accuracy": (hits, n)}
        return Loss(batch.per_group(error) / max(batch.totals.responses, 1), metrics)

    needs = frozenset({f"head:{head}", "note:right"})
    return Objective(loss, f"BCE(sigmoid(mean_t {head}_t), right)", "responses of the step", needs=needs)
