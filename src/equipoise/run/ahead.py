"""Drawing ahead of learning: with ``ahead=k``, step s of a stage is drawn by the policy as of step max(0, s - k).

A draw is what the sources of all streams gave for one step. Signals and credit come when the step has come. Where the
engine can sample while it learns, draws are made in a thread of their own, one after the other; what they see of the
run (weights, ledger, stores) is as it was when the draw was launched, so that results depend on no race.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.budget import Advance, Ledger
from equipoise.protocols import Engine, Sampling
from equipoise.record import exact
from equipoise.types import Cost, Group


@dataclass
class Sourced:
    """What one stream's source gave for a step. ``launched``: the step whose policy drew it."""

    groups: list[Group]
    dropped: list[Group]
    asked: list[tuple[int, int, Cost]]  # groups asked for, groups that fit, charge
    cost: Cost
    launched: int
    seconds: float = 0.0

    @property
    def short(self) -> bool:
        """The budget allowed none of the groups that were there to draw."""
        return any(asked and not fits for asked, fits, _ in self.asked)

    @property
    def empty(self) -> bool:
        return not self.groups and not self.dropped


Source = Callable[[Sampling, Any, Mapping[str, Sequence[Group]], int, int], list[Sourced]]


@dataclass
class Draw:
    """A draw on its way, or done and waiting for its step."""

    step: int
    advance: Advance
    future: Future[list[Sourced]]

    def sourced(self) -> list[Sourced]:
        """Waits; the waits inside of a draw have deadlines. Raises what the draw raised."""
        return self.future.result()

    def forgone(self) -> bool:
        """The budget did not hold it, or not an earlier one. Waits."""
        found = self.sourced()
        return not found or any(s.empty and s.short for s in found)


@dataclass
class Draws:
    """The draws that are ahead of the step at hand, in order, at most ``most`` of them.

    ``source(engine, ledger, stores, step, launched)`` draws for a step; draws are never made two at a time.
    """

    most: int
    source: Source
    waiting: deque[Draw] = field(default_factory=deque)
    _thread: ThreadPoolExecutor | None = None

    def launch(
        self,
        engine: Engine,
        ledger: Ledger,
        stores: Mapping[str, Sequence[Group]],
        now: int,
        policies: Collection[str] = (),
    ) -> None:
        """Begin the next step's draw with the policy of step ``now``; ``policies``: others that it samples from."""
        step = now + 1 + len(self.waiting)
        advance, earlier = ledger.advance(step), list(self.waiting)
        frozen = {name: list(groups) for name, groups in stores.items()}
        sampler = engine.snapshot(policies)

        def draw() -> list[Sourced]:
            # When the budget no longer holds all steps in flight, drawing goes on one step at a time: a step draws for
            # itself, and would race with any draw for a later one.
            if any(before.forgone() for before in earlier):
                return []
            return self.source(sampler or engine, advance, frozen, step, now)

        self.waiting.append(Draw(step, advance, self._begin(draw, aside=sampler is not None)))
        advance.ready = lambda: self._ready(step)

    def _begin(self, draw: Callable[[], list[Sourced]], aside: bool) -> Future[list[Sourced]]:
        if aside:
            self._thread = self._thread or ThreadPoolExecutor(1, "draws")
            return self._thread.submit(draw)
        done: Future[list[Sourced]] = Future()
        done.set_result(draw())
        return done

    def _ready(self, step: int) -> None:
        for draw in self.waiting:
            if draw.step == step:
                draw.sourced()

    def take(self, ledger: Ledger) -> list[Sourced]:
        """The next step's draw; nothing when there is none, or when the budget did not hold it."""
        if not self.waiting:
            return []
        draw = self.waiting.popleft()
        found = draw.sourced()
        ledger.join(draw.advance)
        return found

    def close(self) -> None:
        """Begin no more draws; one that is under way ends with its engine."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def save(self, folder: Path) -> None:
        """What was drawn for steps to come, as part of a checkpoint. Waits until it is there."""
        if self.waiting:
            told = [
                {"step": d.step, "sourced": [{**vars(s), "asked": [list(a) for a in s.asked]} for s in d.sourced()]}
                for d in self.waiting
            ]
            folder.mkdir(parents=True, exist_ok=True)
            exact.write(folder / "draws", told)

    def restore(self, folder: Path, ledger: Ledger) -> None:
        """What ``save`` wrote, beside what the ledger kept of it."""
        self.waiting.clear()
        kept = exact.read(folder / "draws") if folder.is_dir() else []
        for draw, advance in zip(kept, ledger.advances, strict=True):
            done: Future[list[Sourced]] = Future()
            done.set_result([Sourced(**{**s, "asked": [tuple(a) for a in s["asked"]]}) for s in draw["sourced"]])
            self.waiting.append(Draw(draw["step"], advance, done))
