"""The canary: a fixed sequence of tokens on whose log-probs learners and samplers must agree after every publication.

A sampler that is another program than the learner may hold what it was given in forms of its own (packed, fused,
cached). A weight that was not renewed shows in no error, only in what the model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.errors import Mismatch
from equipoise.keys import Key
from equipoise.types import Group, ModelInfo, Prompt, Response

TOKENS = 64
BOUNDS = {"float32": 1e-3, "bfloat16": 0.5}  # nats, of any token; bfloat16 keeps 8 bits, and the two round differently


@dataclass(frozen=True)
class Canary:
    """Tokens ``ids``, and by how many nats any of their log-probs may differ."""

    ids: tuple[int, ...]
    bound: float

    def group(self) -> Group:
        """For a learner to read: the first token is the prompt."""
        n = len(self.ids) - 1
        said = Response(
            ids=np.array(self.ids[1:], dtype=np.int64),
            logprobs=None,
            trained=np.ones(n, dtype=np.bool_),
            segment=np.zeros(n, dtype=np.int32),
            text="",
            origin="canary",
        )
        return Group(Prompt("canary", text="", ids=self.ids[:1]), (said,))

    def check(self, sampler: str, policy: str, learner: Sequence[float], heard: Sequence[float]) -> float:
        """The largest difference, nats. Raises Mismatch when it is above the bound, or not a number."""
        apart = float(np.abs(np.asarray(learner) - np.asarray(heard)).max())
        if not apart <= self.bound:
            raise Mismatch(
                f"{sampler} was given the weights of policy {policy!r}, and its log-probs of a fixed sequence are "
                f"off the learner's by {apart:.3g} nats; expected at most {self.bound:g}. What it samples would not be "
                "the policy that is trained. Use --sampler local, and report this model."
            )
        return apart


def canary(info: ModelInfo) -> Canary:
    """Of a model: tokens drawn evenly from its vocabulary, the same ones always."""
    key = Key(("canary",))
    size = min(TOKENS, info.context - 1)  # vLLM says one token more
    return Canary(tuple(key.integer(info.vocabulary, k) for k in range(size)), BOUNDS[info.dtype])
