"""What a model was checked to do at load, against its own logits on single rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equipoise.engine.local.decoding import begin
from equipoise.engine.local.fused import fits
from equipoise.engine.local.light import lighten
from equipoise.engine.local.network import Network
from equipoise.engine.local.prepacked import layout
from equipoise.engine.local.rows import Sequences, build
from equipoise.errors import ModelError

TOLERANCE = 1e-3  # largest difference of logits, in standard deviations of the logits; a leak shows as 1e-2 or more


@torch.no_grad()
def probe(network: Network, name: str, context: int) -> None:
    """Set ``embeds``, ``blocks``, ``packs``, ``memory`` and ``splits``; warn with the reason where one is False.

    The probe is longer than any window. Raises ModelError when rows of one batch influence each other even when
    padded on the right.
    """
    length = min((network.window or 16) + 9, context - 1)
    rng = np.random.default_rng(0)
    first = rng.integers(0, network.vocabulary, length)
    second = rng.integers(0, network.vocabulary, max(length // 2, 2))
    third = rng.integers(0, network.vocabulary, max(length // 3, 2))
    single = [network.model(input_ids=torch.tensor(x, device=network.device)[None]).logits[0] for x in (first, second)]
    branch = np.concatenate([second, third])[: context - 1]
    branched = network.model(input_ids=torch.tensor(branch, device=network.device)[None]).logits[0]

    def check(what: str, attempt: Callable[[], list[tuple[Tensor, Tensor]]]) -> bool:
        reason = _failure(attempt)
        if reason is not None:
            network.reasons[what] = reason
        return reason is None

    network.embeds = check("embeds", lambda: [_compare(network, first, single[0])])
    likely = fits(network.model, network.config)
    if likely:
        heavy = lighten(network.model)
        if not check("light", lambda: [_compare(network, first, single[0])]):
            heavy()
    network.splits = check("splits", lambda: [_compare(network, first, single[0])])
    padded = check("padded", lambda: _padded(network, [first, second], single))
    if not padded:
        raise ModelError(
            f"model {name!r}: the log-probs of a row change with the row beside it ({network.reasons['padded']}), so "
            "no batch of it can be trained. Choose another architecture."
        )

    def packed() -> list[tuple[Tensor, Tensor]]:
        return _packed(network, first, second, branch, [*single, branched])

    network.blocks = network.blocks and check("blocks", packed)
    network.packs = network.blocks or check("packs", packed)
    fused = ["fused"] if likely and layout(network.device, torch.float32) else []
    for memory in (*fused, "columns", "own", "none"):
        network.memory = memory
        if check(memory, lambda: _decoded(network, first, second, single)):
            break
    _warn(network, name)


def _failure(attempt: Callable[[], list[tuple[Tensor, Tensor]]]) -> str | None:
    try:
        for got, wanted in attempt():
            gap = float((got.double() - wanted.double()).abs().max() / wanted.double().std().clamp(min=1e-12))
            if not gap <= TOLERANCE:
                return f"its logits differ by {gap:.1e} of their standard deviation"
    except Exception as cause:  # noqa: BLE001  # boundary: any model may refuse in its own way, and plain rows remain
        return f"{type(cause).__name__}: {str(cause).splitlines()[0][:160] if str(cause) else ''}"
    return None


def _compare(network: Network, ids: np.ndarray, wanted: Tensor) -> tuple[Tensor, Tensor]:
    hidden = network.run(torch.tensor(ids, device=network.device)[None])
    return network.logits(hidden[0]), wanted


def _padded(network: Network, rows: list[np.ndarray], wanted: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=network.device)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
    hidden = network.run(ids)
    return [(network.logits(hidden[k, : len(row)]), w) for k, (row, w) in enumerate(zip(rows, wanted, strict=True))]


def _packed(
    network: Network, first: np.ndarray, second: np.ndarray, branch: np.ndarray, wanted: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """One row: ``first``; then ``second`` as a prompt shared by its continuation in ``branch`` and by another."""
    tail = branch[len(second) :]
    last = np.append(tail, 0)  # the last token of a reply is predicted, not read
    none = np.array([0])
    every = np.arange(len(last))
    seqs = Sequences(
        (first, second, second, second),
        (none, first[: len(last)], last, none),
        (none, every, every, none),
        (0, 1, 1, 2),
    )
    hidden = network.hidden(build(seqs, [[(0,), (1, 2), (3,)]], "shared"))
    a, b, c = len(first), len(second), len(tail)
    start = a + b + len(first[: len(last)]) - 1
    logits = network.logits(hidden)
    return [
        (logits[:a], wanted[0]),
        (logits[a : a + b], wanted[1]),
        (logits[start : start + c], wanted[2][b : b + c]),
        (logits[start + c : start + c + b], wanted[1]),
    ]


def _decoded(
    network: Network, first: np.ndarray, second: np.ndarray, wanted: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Prompts of unequal length, padded on the left, then their last tokens one at a time."""
    steps = 2 if len(second) > 3 else 1
    prompts = [first[:-steps].tolist(), second[:-steps].tolist()]
    rows = [(second, wanted[1]), (first, wanted[0]), (second, wanted[1])]
    pairs = []
    with network.decoding():
        state = begin(network, prompts, np.array([1, 0, 1]))
        for left in range(steps, -1, -1):
            pairs += [(network.logits(state.last[k : k + 1])[0], w[len(x) - left - 1]) for k, (x, w) in enumerate(rows)]
            if left:
                state.feed(np.array([x[len(x) - left] for x, _ in rows]))
    return pairs


def _warn(network: Network, name: str) -> None:
    consequences = {
        "packs": "rows are not packed (plain padded rows: slower, equally right)",
        "own": "sampling runs every row again for each token (slower, equally right)",
        "splits": "its logits are computed at every position (more memory, equally right)",
    }
    for what, consequence in consequences.items():
        if what in network.reasons:
            warnings.warn(f"model {name!r}: {consequence}, because {network.reasons[what]}.", stacklevel=2)
