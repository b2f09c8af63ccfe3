"""The pipeline, event by event: samplers, learners, and the weights that go from these to those.

Step s is sampled by version max(0, s - ahead), where version v has learned steps 0 to v - 1. A sampler takes weights
only between launches. Steps are learned in order, each when its last response is there. Who launches:

- "driver": one program scores a step, then sends the weights as they are and launches the draw of ``ahead`` steps later
  on all samplers, then learns. Samplers begin a draw together. This is Equipoise's own order.
- "free": weights leave as soon as they are learned, and a sampler goes on by itself when they are there.

With constant durations and one sampler, seconds a step are the largest mean over a cycle of waits, where a lap is
L = score + learn + record [+ send, when learners are held meanwhile]:

    generate + swap,   L,   send   and   driver: (score + send + swap + generate) / ahead
                                         free: (swap + generate + score + learn + record + send) / (ahead + 1)

and with ahead = 0 their sum.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import MissingExtra

try:
    import simpy
except ImportError as e:
    raise MissingExtra("simpy, which runs the simulation,", "pip install 'equipoise[plan]'") from e

Floats = NDArray[np.float64]
Waits = Generator[Any, Any, None]
LEARNER = "learner"


@dataclass(frozen=True)
class Durations:
    """Seconds of every piece, if nothing else ran on the same cores."""

    generate: Floats  # [steps, samplers]
    learn: Floats  # [steps]
    score: Floats  # [steps] by the driver, before learning
    record: Floats  # [steps] by the driver, after learning
    send_s: float  # a version from the learners
    swap_s: float  # a version into a sampler at its launch
    held: bool  # learners wait while they send
    driver: bool = True  # launched by one driver; False: free

    @property
    def steps(self) -> int:
        return len(self.learn)


@dataclass(frozen=True)
class Machine:
    """Processes that share the cores of one machine, each slowed alike when more want to run than there are cores."""

    cores: int
    sampler: int = 1  # threads of one sampler
    learner: int = 1  # threads of all learners


@dataclass(frozen=True)
class Span:
    """Who did what, from when to when. ``version``: of the weights that it used, sent or took."""

    who: str
    state: str
    step: int
    version: int
    start: float
    end: float


@dataclass(frozen=True)
class Trace:
    """What happened."""

    spans: tuple[Span, ...]
    drawn: Floats  # [steps, samplers] when each had generated its share
    learned: Floats  # [steps] when learning ended

    def of(self, who: str) -> list[Span]:
        """In the order of time."""
        return sorted((s for s in self.spans if s.who == who), key=lambda s: s.start)


def sampler(i: int) -> str:
    return f"sampler {i}"


def simulate(d: Durations, ahead: int, machine: Machine | None = None) -> Trace:
    """Play all steps. Deterministic. Raises MissingExtra without simpy, at the import of this file."""
    return _Pipeline(d, ahead, machine).play()


class _Pipeline:
    def __init__(self, d: Durations, ahead: int, machine: Machine | None) -> None:
        self.d, self.ahead = d, ahead
        self.driver = d.driver and ahead > 0  # without steps ahead both come to the same
        self.env = simpy.Environment()
        self.cores = _Cores(self.env, machine.cores) if machine else None
        self.machine = machine or Machine(1)
        samplers = d.generate.shape[1]
        self.ready = [self.env.event() for _ in range(d.steps + 1)]  # when samplers may take a version
        self.there = [self.env.event() for _ in range(d.steps)]  # when all samplers have generated a step
        self.missing = [samplers] * d.steps
        self.link = simpy.Resource(self.env, 1)
        self.spans: list[Span] = []
        self.drawn, self.learned = np.zeros((d.steps, samplers)), np.zeros(d.steps)

    def play(self) -> Trace:
        if not self.driver:
            self.ready[0].succeed()
        for i in range(self.d.generate.shape[1]):
            self.env.process(self._sampler(i))
        self.env.process(self._learner())
        self.env.run()
        return Trace(tuple(self.spans), self.drawn, self.learned)

    def _busy(self, who: str, state: str, step: int, version: int, seconds: float, threads: int) -> Waits:
        start = self.env.now
        yield self.cores.run(seconds, threads) if self.cores else self.env.timeout(seconds)
        self.spans.append(Span(who, state, step, version, start, self.env.now))

    def _sampler(self, i: int) -> Waits:
        who, threads, holds = sampler(i), self.machine.sampler, 0
        for step in range(self.d.steps):
            version = max(0, step - self.ahead)
            if step or not self.driver:  # the first draw of a driver is launched at once
                yield self.ready[version]
            if step and self.driver:
                yield self.there[step - 1]
            if version != holds:
                yield from self._busy(who, "swap", step, version, self.d.swap_s, threads)
                holds = version
            yield from self._busy(who, "generate", step, holds, float(self.d.generate[step, i]), threads)
            self.drawn[step, i] = self.env.now
            self.missing[step] -= 1
            if not self.missing[step]:
                self.there[step].succeed()

    def _learner(self) -> Waits:
        threads = self.machine.learner
        for step in range(self.d.steps):
            yield self.there[step]
            yield from self._busy(LEARNER, "score", step, step, float(self.d.score[step]), 1)
            if self.driver:
                yield from self._publish(step)
            yield from self._busy(LEARNER, "learn", step, step, float(self.d.learn[step]), threads)
            self.learned[step] = self.env.now
            yield from self._busy(LEARNER, "record", step, step, float(self.d.record[step]), 1)
            if not self.driver:
                yield from self._publish(step + 1)

    def _publish(self, version: int) -> Waits:
        sending = self.env.process(self._send(version))
        if self.d.held:
            yield sending

    def _send(self, version: int) -> Waits:
        if version == 0:  # all begin with it
            self.ready[0].succeed()
            return
        with self.link.request() as turn:
            yield turn
            who = LEARNER if self.d.held else "link"
            yield from self._busy(who, "publish", version, version, self.d.send_s, 1)
        self.ready[version].succeed()


class _Cores:
    """Jobs that share cores: each runs at the same share of full speed, so that no more threads run than there are."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        self.env, self.count = env, count
        self.jobs: dict[simpy.Event, tuple[float, int]] = {}  # seconds left at full speed, threads
        self.since, self.turn = env.now, 0

    def run(self, seconds: float, threads: int) -> simpy.Event:
        """Happens when a job of so many seconds at full speed is done."""
        done = self.env.event()
        self._advance()
        self.jobs[done] = (seconds, threads)
        self._next()
        return done

    @property
    def speed(self) -> float:
        wanted = sum(threads for _, threads in self.jobs.values())
        return min(1.0, self.count / wanted) if wanted else 1.0

    def _advance(self) -> None:
        gone = (self.env.now - self.since) * self.speed
        self.jobs = {done: (left - gone, threads) for done, (left, threads) in self.jobs.items()}
        self.since = self.env.now

    def _next(self) -> None:
        self.turn += 1
        if self.jobs:
            first = min(self.jobs, key=lambda job: self.jobs[job][0])
            self.env.process(self._end(first, max(self.jobs[first][0], 0.0) / self.speed, self.turn))

    def _end(self, job: simpy.Event, delay: float, turn: int) -> Waits:
        yield self.env.timeout(delay)
        if turn == self.turn:  # no job came or went meanwhile
            self._advance()
            del self.jobs[job]
            job.succeed()
            self._next()


def overlap(spans: Iterable[Span], start: float, end: float) -> float:
    """Seconds of spans within a window."""
    return sum(max(0.0, min(s.end, end) - max(s.start, start)) for s in spans)
