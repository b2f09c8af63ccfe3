"""What scores a response."""

from equipoise.parts.signals.agreement import agreement, semantic_entropy
from equipoise.parts.signals.certainty import Measure, certainty
from equipoise.parts.signals.form import answered
from equipoise.parts.signals.noise import noisy
from equipoise.parts.signals.steps import steps
from equipoise.parts.signals.verifier import judge, verified

__all__ = [
    "Measure",
    "agreement",
    "answered",
    "certainty",
    "judge",
    "noisy",
    "semantic_entropy",
    "steps",
    "verified",
]
