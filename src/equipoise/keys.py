"""Randomness as a function: a key is a path, and a path with an index is one uniform number.

Nothing here has a state to save. The same path gives the same number in every process, on every platform and
after a resume; two different paths share no number.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), element-wise on uint64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Key:
    """A path such as ``(seed, stage, stream, step, occurrence, policy, branch, sample)``.

    >>> Key((0,)) / "rl" / 3
    Key(path=(0, 'rl', 3))
    """

    path: tuple[int | str, ...]

    def __truediv__(self, name: int | str) -> Key:
        return Key((*self.path, name))

    def __str__(self) -> str:
        return "/".join(str(p) for p in self.path)

    @property
    def word(self) -> int:
        """64 bits that stand for the path."""
        text = "\x1f".join(f"{type(p).__name__[0]}{p}" for p in self.path)
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    def uniform(self, index: int = 0) -> float:
        """One number in [0, 1) on a grid of 2^-53."""
        return float(uniforms(np.array([self.word], dtype=np.uint64), np.array([index]))[0])

    def integer(self, below: int, index: int = 0) -> int:
        """One integer in [0, below)."""
        return min(int(self.uniform(index) * below), below - 1)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A permutation of 0..n-1, [n]."""
        draws = uniforms(np.full(n, self.word, dtype=np.uint64), np.arange(n))
        return np.argsort(draws, kind="stable")


def uniforms(words: NDArray[np.uint64], index: NDArray[np.integer]) -> NDArray[np.float64]:
    """53-bit uniforms in [0, 1) for keys ``words [B]`` at token positions ``index [B]``."""
    with np.errstate(over="ignore"):
        step = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        bits = _mix(_mix(words ^ step) + np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
