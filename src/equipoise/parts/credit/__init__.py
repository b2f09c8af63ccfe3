"""From scores to advantages. Statistics leave out failed verdicts; groups of equal scores get exactly 0."""

from equipoise.parts.credit.baselines import by_outcome, center, leave_one_out, subtract, subtract_running_mean
from equipoise.parts.credit.critic import advantages, gae, returns
from equipoise.parts.credit.filters import keep_mixed, mask_truncated
from equipoise.parts.credit.groups import Pool, noted, per_response, pooled, token_values, untrained, values
from equipoise.parts.credit.scales import divide_by_std, whiten
from equipoise.parts.credit.shaping import penalise_length, subtract_kl
from equipoise.parts.credit.statistics import pass_rate

__all__ = [
    "Pool",
    "advantages",
    "by_outcome",
    "center",
    "divide_by_std",
    "gae",
    "keep_mixed",
    "leave_one_out",
    "mask_truncated",
    "noted",
    "pass_rate",
    "penalise_length",
    "per_response",
    "pooled",
    "returns",
    "subtract",
    "subtract_kl",
    "subtract_running_mean",
    "token_values",
    "untrained",
    "values",
    "whiten",
]
