"""Where groups come from: sampled rollouts, demonstrations, pairs, stored groups.

A source draws at most what the budget still allows (``ctx.reserve``) and returns no groups when it can draw none.
Its state is how many items it has drawn; the order is a permutation of the split, a new one each epoch.
"""

from equipoise.parts.sources.attempts import said_between
from equipoise.parts.sources.budgets import announced, interrupted, tokens_of
from equipoise.parts.sources.curricula import (
    Curriculum,
    by_length,
    first,
    most_variable,
    named,
    narrowed,
    scheduled,
    without_solved,
)
from equipoise.parts.sources.draws import take
from equipoise.parts.sources.given import demonstrations, pairs
from equipoise.parts.sources.guided import begun_by
from equipoise.parts.sources.guides import rolled_in, rolled_out
from equipoise.parts.sources.levels import by_level
from equipoise.parts.sources.memories import Pool, prompts_of, rated, remembered
from equipoise.parts.sources.prefixes import prefixed, unsolved
from equipoise.parts.sources.rollouts import refill, sampled
from equipoise.parts.sources.stores import right_answers, right_wrong_pairs, stored, whole_groups
from equipoise.parts.sources.turns import Teacher, conversed, last_reply_from

__all__ = [
    "Curriculum",
    "Pool",
    "Teacher",
    "announced",
    "begun_by",
    "by_length",
    "by_level",
    "conversed",
    "demonstrations",
    "first",
    "interrupted",
    "last_reply_from",
    "most_variable",
    "named",
    "narrowed",
    "pairs",
    "prefixed",
    "prompts_of",
    "rated",
    "refill",
    "remembered",
    "right_answers",
    "right_wrong_pairs",
    "rolled_in",
    "rolled_out",
    "said_between",
    "sampled",
    "scheduled",
    "stored",
    "take",
    "tokens_of",
    "unsolved",
    "whole_groups",
    "without_solved",
]
