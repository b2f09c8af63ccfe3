"""What scores a response."""

from equipoise.parts.signals.agreement import agreement, semantic_entropy
from equipoise.parts.signals.certainty import Measure, certainty
from equipoise.parts.signals.closeness import add_overlap
from equipoise.parts.signals.contexts import add_form_and_length, replaced
from equipoise.parts.signals.continuations import appended, continued
from equipoise.parts.signals.demonstrations import beside_demonstration
from equipoise.parts.signals.form import answered
from equipoise.parts.signals.gates import Asked, Check, by_function, by_part, by_policy, gated
from equipoise.parts.signals.noise import noisy
from equipoise.parts.signals.shaped import Form, add_form, add_sub_answers, cosine, table
from equipoise.parts.signals.steps import steps
from equipoise.parts.signals.turns import turns
from equipoise.parts.signals.verifier import judge, verified

__all__ = [
    "Asked",
    "Check",
    "Form",
    "Measure",
    "add_form",
    "add_form_and_length",
    "add_overlap",
    "add_sub_answers",
    "agreement",
    "answered",
    "appended",
    "beside_demonstration",
    "by_function",
    "by_part",
    "by_policy",
    "certainty",
    "continued",
    "cosine",
    "gated",
    "judge",
    "noisy",
    "replaced",
    "semantic_entropy",
    "steps",
    "table",
    "turns",
    "verified",
]
