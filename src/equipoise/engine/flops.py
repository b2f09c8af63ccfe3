"""Floating-point operations of a transformer, by formula; padding is not work and is not counted.

Forward, for tokens that see c others (themselves included), s of them scored:

    2 * body * tokens  +  4 * layers * width * sum(c)  +  2 * head * s

A backward pass costs the forward's again for the activations, and once more for the weights' gradient in the
share of weights that is trained. Recomputed activations cost their forward again, and so does the output head in
a backward pass: its [T, V] logits are not kept. (On one device the last chunk's are, and are charged all the same: what
a step costs does not depend on how it was cut.)
"""

from __future__ import annotations

from equipoise.types import Cost, ModelInfo


def forward(info: ModelInfo, tokens: int, seen: int, scored: int) -> float:
    """``tokens`` through the body, which attend to ``seen`` positions in all, ``scored`` of them through the head."""
    return 2.0 * info.body * tokens + 4.0 * info.layers * info.width * seen + 2.0 * info.head * scored


def training(info: ModelInfo, tokens: int, seen: int, scored: int) -> float:
    """A forward and a backward pass."""
    passes = 2.0 + min(1.0, info.trainable / max(info.parameters, 1))
    body = forward(info, tokens, seen, 0) * (passes + info.recompute)
    return body + forward(info, 0, 0, scored) * (passes + 1)


def causal(length: int, after: int = 0) -> int:
    """Positions seen by ``length`` tokens that follow ``after`` others: each sees those before it and itself."""
    return length * after + length * (length + 1) // 2


def bound(
    info: ModelInfo,
    prompt_tokens: int,
    n: int,
    max_new_tokens: int,
    passes_forward: int = 0,
    passes_backward: int = 1,
    sampled: bool = True,
) -> Cost:
    """What one group can cost at most: ``n`` responses of ``max_new_tokens``, sampled (if ``sampled``), read
    without gradient ``passes_forward`` times and trained on ``passes_backward`` times.

    Holds for responses without turns from an environment. An objective whose groups do not fit one micro-batch, or
    whose scope is the batch, reads its outputs once more per backward pass: count that among ``passes_forward``.
    """
    longest = max(min(max_new_tokens, info.context - prompt_tokens), 0)
    scored, read = n * longest, max(longest - 1, 0)  # the last token is predicted and never read
    rows = (n * (prompt_tokens + read), n * causal(prompt_tokens + read), scored)
    flops = passes_forward * forward(info, *rows) + passes_backward * training(info, *rows)
    if sampled:
        flops += forward(info, prompt_tokens, causal(prompt_tokens), 1)
        flops += forward(info, n * read, n * causal(read, prompt_tokens), n * read)
    return Cost(scored if sampled else 0, scored * passes_backward, flops * (1 + 1e-9))  # sums may round otherwise
