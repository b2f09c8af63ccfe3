"""The reward of the GRPO workloads, for both sides: a number that depends on the reply's text and on nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any


def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Evenly spread over 0 to 1, so no group has equal rewards and none is skipped for lack of a gradient."""
    return [zlib.crc32(str(text).encode()) / 2**32 for text in completions]
