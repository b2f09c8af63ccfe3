"""Seconds of a forward and backward pass in each layout of the learner's rows under masks, and in what the engine does.

    python benchmarks/layouts.py '<Layout as JSON>'      prints one line of JSON

The layouts are forced here and nowhere else: plain (a response with its prompt a row), packed (several a row, blind to
each other), shared (a prompt once, as many of its responses as the micro-batch has after it). What the engine does
is its choice among these or, where it can, attention by blocks, which needs no mask.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from unittest.mock import patch

import numpy as np

from equipoise.engine.batch import count
from equipoise.engine.local import LocalEngine, deterministic, learner, load, rows
from equipoise.parts.objectives import likelihood
from equipoise.types import Group, ModelInfo, Prompt, Response

NAMES = ("plain", "packed", "shared")
Arrange = Callable[[rows.Sequences, ModelInfo, bool, bool], rows.Rows]


@dataclass(frozen=True)
class Layout:
    """``groups`` prompts of ``length`` tokens with ``samples`` responses of ``new`` tokens each. ``ragged``: responses
    of 1 to ``new`` tokens. ``limit``: tokens of a micro-batch; None: the engine's own."""

    model: str
    length: int
    new: int
    samples: int = 8
    groups: int = 1
    ragged: bool = False
    limit: int | None = None
    dtype: str = "float32"
    threads: int = 2
    repeats: int = 2

    def dump(self) -> str:
        return json.dumps(asdict(self))


def groups(work: Layout, vocabulary: int) -> list[Group]:
    """Tokens at random."""
    random = np.random.default_rng(0)

    def response() -> Response:
        n = int(random.integers(1, work.new + 1)) if work.ragged else work.new
        ids = random.integers(0, vocabulary, n)
        return Response(ids, None, np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int32), "", origin="demonstration")

    def prompt(k: int) -> Prompt:
        return Prompt(str(k), text="-", ids=tuple(random.integers(0, vocabulary, work.length).tolist()))

    return [Group(prompt(k), tuple(response() for _ in range(work.samples))) for k in range(work.groups)]


def forced(name: str) -> Arrange:
    """As ``rows.arrange``, in this layout whatever it costs."""

    def arrange(seqs: rows.Sequences, info: ModelInfo, packs: bool, blocks: bool) -> rows.Rows:
        if name == "plain":
            return rows.build(seqs, [[(i,)] for i in range(len(seqs.owner))], name)
        items = rows._items(seqs, 1 if name == "packed" else len(seqs.owner))
        bins = rows._fill([rows._size(seqs, item) for item in items])
        return rows.build(seqs, [[items[i] for i in row] for row in bins], name)

    return arrange


@contextmanager
def layout(engine: LocalEngine, name: str) -> Iterator[None]:
    """Within, the learner uses this layout under masks; "chosen": what it would do by itself."""
    if name == "chosen":
        yield
        return
    with patch.object(learner, "arrange", forced(name)), patch.object(engine.network, "blocks", False):
        yield


def shapes(engine: LocalEngine, batch: Sequence[Group], name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Layout and rows of each micro-batch."""
    with layout(engine, name):
        return [(micro.rows.layout, micro.rows.ids.shape) for micro in engine._learner.micros(batch)]


def seconds(engine: LocalEngine, batch: Sequence[Group], name: str) -> float:
    """Of a pass over the groups, forward and backward."""
    with layout(engine, name):
        began = time.monotonic()
        engine.backward(batch, likelihood(), count(batch))
        took = time.monotonic() - began
    engine.discard()
    return took


def run(work: Layout) -> dict[str, object]:
    deterministic(work.threads)
    engine = load(work.model, device="cpu", dtype=work.dtype, rows_tokens=work.limit)
    batch = groups(work, engine.info.vocabulary)
    made = {name: shapes(engine, batch, name) for name in (*NAMES, "chosen")}
    seconds(engine, groups(Layout(work.model, 16, 16), engine.info.vocabulary), "chosen")  # warms up
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(work.repeats):  # in turn: what disturbs the machine disturbs all
        for name in made:
            times[name].append(seconds(engine, batch, name))
    took = {name: statistics.median(found) for name, found in times.items()}
    best = min(NAMES, key=lambda name: took[name])
    return {
        "seconds": times,
        "rows": {name: [f"{layout} {b}x{n}" for layout, (b, n) in found] for name, found in made.items()},
        "chosen": "blocks" if engine.network.blocks else made["chosen"][0][0],
        "best": best,
        "ratio": took["chosen"] / took[best],
    }


if __name__ == "__main__":
    print(json.dumps(run(Layout(**json.loads(sys.argv[1])))))
