"""What every engine's optimiser is told; the learning rate comes with each step."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Optimiser:
    """AdamW (Loshchilov and Hutter, 1711.05101): moments, decay and the clip of the gradient's norm.

    Raises ArgumentError for a number that no step can be made with, named as on the command line.
    """

    clip: float = 1.0  # largest norm of the whole gradient; inf: as it is
    beta1: float = 0.9  # memory of the mean gradient
    beta2: float = 0.999  # memory of the mean squared gradient
    eps: float = 1e-8  # added to the root of the latter
    weight_decay: float = 0.0  # of matrices, times the learning rate a step; norms and biases are left alone

    def __post_init__(self) -> None:
        _check("clip", self.clip, self.clip > 0, "a number above 0, or inf for no clipping")
        _check("beta1", self.beta1, 0 <= self.beta1 < 1, "at least 0 and below 1")
        _check("beta2", self.beta2, 0 <= self.beta2 < 1, "at least 0 and below 1")
        _check("eps", self.eps, self.eps > 0 and isfinite(self.eps), "a number above 0")
        _check("weight-decay", self.weight_decay, 0 <= self.weight_decay < float("inf"), "a number of at least 0")

    def __str__(self) -> str:
        clip = f"gradient norm clipped at {self.clip:g}" if isfinite(self.clip) else "gradient not clipped"
        return f"AdamW, betas {self.beta1:g} and {self.beta2:g}, eps {self.eps:g}, decay {self.weight_decay:g}; {clip}"


def _check(name: str, value: float, right: bool, expected: str) -> None:
    if not right:
        raise ArgumentError(f"--optimiser.{name} is {value:g}; expected {expected}")
