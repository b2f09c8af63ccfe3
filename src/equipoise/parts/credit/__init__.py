"""From scores to advantages. Statistics leave out failed verdicts; groups of equal scores get exactly 0."""

from equipoise.parts.credit.acceptance import acceptance
from equipoise.parts.credit.asymmetry import ease_kl, press_long_wrong
from equipoise.parts.credit.baselines import (
    by_outcome,
    center,
    leave_one_out,
    subtract,
    subtract_greedy,
    subtract_running_mean,
)
from equipoise.parts.credit.budgets import (
    Prior,
    anytime,
    compare_budgets,
    credit_anytime,
    most,
    pay_by_budget,
    prior,
    worth,
)
from equipoise.parts.credit.calibration import Form, add_brier
from equipoise.parts.credit.critic import advantages, gae, returns
from equipoise.parts.credit.densities import beta_shape, divide_by_density, inverse_density
from equipoise.parts.credit.filters import keep_mixed, mask_truncated
from equipoise.parts.credit.groups import Pool, noted, per_response, pooled, token_values, untrained, values
from equipoise.parts.credit.pits import first_pits
from equipoise.parts.credit.prefixes import prefix_weights, weigh_by_prefix
from equipoise.parts.credit.ranks import Kept, explained, keep_one_of_each, keep_ranked, penalise_likely
from equipoise.parts.credit.repetition import penalise_repetition, repeated
from equipoise.parts.credit.scales import divide_by_std, whiten
from equipoise.parts.credit.shaping import measure_kl, penalise_length, subtract_kl
from equipoise.parts.credit.statistics import pass_rate
from equipoise.parts.credit.steps import spare_right_steps
from equipoise.parts.credit.tilted import posterior_weights, subtract_soft_value
from equipoise.parts.credit.turns import Criterion, by_turn, weigh_turns

__all__ = [
    "Criterion",
    "Form",
    "Kept",
    "Pool",
    "Prior",
    "acceptance",
    "add_brier",
    "advantages",
    "anytime",
    "beta_shape",
    "by_outcome",
    "by_turn",
    "center",
    "compare_budgets",
    "credit_anytime",
    "divide_by_density",
    "divide_by_std",
    "ease_kl",
    "explained",
    "first_pits",
    "gae",
    "inverse_density",
    "keep_mixed",
    "keep_one_of_each",
    "keep_ranked",
    "leave_one_out",
    "mask_truncated",
    "measure_kl",
    "most",
    "noted",
    "pass_rate",
    "pay_by_budget",
    "penalise_length",
    "penalise_likely",
    "penalise_repetition",
    "per_response",
    "pooled",
    "posterior_weights",
    "prefix_weights",
    "press_long_wrong",
    "prior",
    "repeated",
    "returns",
    "spare_right_steps",
    "subtract",
    "subtract_greedy",
    "subtract_kl",
    "subtract_running_mean",
    "subtract_soft_value",
    "token_values",
    "untrained",
    "values",
    "weigh_by_prefix",
    "weigh_turns",
    "whiten",
    "worth",
]
