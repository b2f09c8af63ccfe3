"""What papers say, put to the test: each claim is a trial at equal budget, written down before its result.

Specs are files of ``claims/specs``, one a claim; results are data in ``claims/results``, one list a claim.
"""

from equipoise.claims.claim import Claim, Contrast
from equipoise.claims.verdict import Finding, decide, settle

__all__ = ["Claim", "Contrast", "Finding", "decide", "settle"]
