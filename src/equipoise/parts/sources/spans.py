"""Where the turns of a conversation are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equipoise.types import Response


def spans(response: Response) -> list[NDArray[np.int64]]:
    """The places of each of the policy's turns within a response, in order. Trained or not: by segments, which are even
    for the policy's and odd for its environment's."""
    said = response.segment % 2 == 0
    return [np.flatnonzero(said & (response.segment == k)) for k in np.unique(response.segment[said])]
