"""What is minimised: pure functions of flat tokens. Each names its formula and its denominator.

pi: the policy being trained; old: the policy when the update began; A: advantage; rho = pi / old; y: a response.
The denominators are the step's totals, never a micro-batch's: token, response, group, or a constant times responses.
"""

from equipoise.parts.objectives.contrast import separate
from equipoise.parts.objectives.critic import outcome_error, value_error
from equipoise.parts.objectives.divergence import Estimator, entropy, keep_within, kl
from equipoise.parts.objectives.embeddings import Sample, near_demonstration
from equipoise.parts.objectives.imitation import likelihood
from equipoise.parts.objectives.mismatch import truncated, weighted
from equipoise.parts.objectives.outcomes import outcome, right_and_wrong
from equipoise.parts.objectives.over import Over
from equipoise.parts.objectives.pairs import preference, ranked
from equipoise.parts.objectives.policy import clipped, implicit_negative, reweighted, score_function
from equipoise.parts.objectives.residuals import (
    logit_residual,
    pairwise_residual,
    residual,
    residual_gradient,
    value_residual,
)

__all__ = [
    "Estimator",
    "Over",
    "Sample",
    "clipped",
    "entropy",
    "implicit_negative",
    "keep_within",
    "kl",
    "likelihood",
    "logit_residual",
    "near_demonstration",
    "outcome",
    "outcome_error",
    "pairwise_residual",
    "preference",
    "ranked",
    "residual",
    "residual_gradient",
    "reweighted",
    "right_and_wrong",
    "score_function",
    "separate",
    "truncated",
    "value_error",
    "value_residual",
    "weighted",
]
