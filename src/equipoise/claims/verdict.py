"""From two arms to *holds here*, *fails here* or *cannot tell*.

d is how much the better arm's mean exceeds the worse arm's, in the direction that the claim says, with the 95% interval
of ``trial.statistics``: seeds and items are both random. One contrast decides, so nothing is adjusted for number.

    holds here    low > 0 and d >= matters      there is an effect, and it is large enough to matter
    fails here    high < matters                an effect that matters is excluded
    cannot tell   otherwise
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from equipoise.trial.result import SHARES
from equipoise.trial.statistics import ALPHA, Arm, Parts, difference, interval, seeds_needed

Word = Literal["holds here", "fails here", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """``estimate``, ``low``, ``high`` are of d. ``more_seeds``: about how many more would settle it; None where it is
    settled, or where no affordable number would."""

    verdict: Word
    estimate: float
    low: float
    high: float
    more_seeds: int | None = None


def decide(estimate: float, low: float, high: float, matters: float) -> Word:
    """The verdict on d = ``estimate`` with its interval."""
    if low > 0 and estimate >= matters:
        return "holds here"
    return "fails here" if high < matters else "cannot tell"


def settle(better: Arm, worse: Arm, matters: float, metric: str = "pass@1", higher: bool = True) -> Finding:
    """Compare two arms on the same items. Raises ArgumentError for fewer than two seeds or other items."""
    parts = difference(better, worse) if higher else difference(worse, better)
    most = 1.0 if SHARES.match(metric) else np.inf
    low, high = (float(np.clip(x, -most, most)) for x in interval(parts))
    d = float(parts.estimate)
    verdict = decide(d, low, high, matters)
    return Finding(verdict, d, low, high, _more(parts, d, matters) if verdict == "cannot tell" else None)


def _more(parts: Parts, d: float, matters: float) -> int | None:
    """Seeds that would put the whole interval above 0 if d is as estimated and matters, below ``matters`` if not."""
    gap = d if d >= matters else matters - d
    return seeds_needed(replace(parts, estimate=np.asarray(gap)), 1 - ALPHA)
