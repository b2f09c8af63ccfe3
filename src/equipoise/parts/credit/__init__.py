"""From scores to advantages. Statistics leave out failed verdicts; groups of equal scores get exactly 0."""

from equipoise.parts.credit.baselines import center, leave_one_out
from equipoise.parts.credit.critic import advantages, gae
from equipoise.parts.credit.filters import keep_mixed
from equipoise.parts.credit.groups import noted, per_response, values
from equipoise.parts.credit.scales import divide_by_std, whiten
from equipoise.parts.credit.shaping import penalise_length, subtract_kl
from equipoise.parts.credit.statistics import pass_rate

__all__ = [
    "advantages",
    "center",
    "divide_by_std",
    "gae",
    "keep_mixed",
    "leave_one_out",
    "noted",
    "pass_rate",
    "penalise_length",
    "per_response",
    "subtract_kl",
    "values",
    "whiten",
]
