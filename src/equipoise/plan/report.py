"""What a simulated cluster does with its time, what bounds it, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from equipoise.plan.cluster import Cluster
from equipoise.plan.pipeline import LEARNER, Durations, Machine, Span, Trace, overlap, sampler, simulate
from equipoise.plan.roofline import Learned, Roofline
from equipoise.plan.work import Draw, draw, equal

SAMPLER_STATES = ("generate", "tail", "weights", "swap")
LEARNER_STATES = ("learn", "score", "record", "publish", "groups")
BALANCED = 0.02  # gains below this share say that no single part bounds the whole


@dataclass(frozen=True)
class Window:
    """Simulated time from one step's learning to another's, so that filling the pipeline does not count."""

    first: int
    last: int
    start: float
    end: float

    @property
    def step_s(self) -> float:
        return (self.end - self.start) / (self.last - self.first)


def window(trace: Trace, ahead: int, steps: int) -> Window:
    """``steps`` steps, after those that fill the pipeline."""
    first = filling(ahead) - 1
    return Window(first, first + steps, float(trace.learned[first]), float(trace.learned[first + steps]))


def filling(ahead: int) -> int:
    """Steps before the window."""
    return ahead + 2


def simulated(ahead: int, steps: int) -> int:
    """Steps to simulate: so many, those before, and those that samplers work on when the last one is learned."""
    return filling(ahead) + steps + ahead + 1


# -- shares of time --------------------------------------------------------------------------------------------------


def shares(trace: Trace, w: Window) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Share of the window's time in each state: of the learners, and of every sampler. Each sums to 1."""
    length = w.end - w.start
    learner = {s: _in(trace.of(LEARNER), s, w) / length for s in LEARNER_STATES[:-1]}
    learner["groups"] = 1.0 - sum(learner.values())
    every = []
    for i in range(trace.drawn.shape[1]):
        own = trace.of(sampler(i))
        mine = {s: _in(own, s, w) / length for s in ("generate", "swap")} | {"tail": _tail(trace, own, i, w) / length}
        mine["weights"] = 1.0 - sum(mine.values())
        every.append({s: mine[s] for s in SAMPLER_STATES})
    return learner, every


def _in(spans: Sequence[Span], state: str, w: Window) -> float:
    return overlap((s for s in spans if s.state == state), w.start, w.end)


def _tail(trace: Trace, own: Sequence[Span], i: int, w: Window) -> float:
    """Seconds in which a sampler had ended its share of a step, did nothing, and others still generated theirs."""
    starts = [s.start for s in own]
    total = 0.0
    for step, ended in enumerate(trace.drawn[:, i].tolist()):
        following = min((t for t in starts if t >= ended), default=np.inf)
        idle = min(following, float(trace.drawn[step].max()))
        total += max(0.0, min(idle, w.end) - max(ended, w.start))
    return total


# -- the whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One simulated cluster. Shares are of time; gains are relative throughput, 0.3 for 30% more."""

    seconds_a_step: float
    tokens_a_second: float  # generated
    learner: Mapping[str, float]
    samplers: Mapping[str, float]  # mean over samplers
    idle: float  # share of all accelerators' time
    bound: str
    gains: Mapping[str, float]
    staleness: int  # most versions that a learned step's weights were behind
    trace: Trace
    window: Window

    def json(self) -> dict[str, Any]:
        found = {k: v for k, v in asdict(self).items() if k not in ("trace", "window")}
        return {**found, "steps": self.window.last - self.window.first}


def outcome(
    d: Durations, draws: Sequence[Draw], ahead: int, steps: int, machine: Machine | None, weights: tuple[int, int]
) -> Outcome:
    """``weights``: accelerators of the learners and of one sampler, for the share of idle time."""
    trace = simulate(d, ahead, machine)
    w = window(trace, ahead, steps)
    learner, every = shares(trace, w)
    samplers = {s: float(np.mean([mine[s] for mine in every])) for s in SAMPLER_STATES}
    learners, each = weights
    busy = learners * (1 - learner["groups"]) + each * sum(m["generate"] + m["swap"] for m in every)
    tokens = sum(draws[s].tokens for s in range(w.first + 1, w.last + 1))
    gains = _gains(d, ahead, steps, machine, w.step_s)
    learning = [s for s in trace.of(LEARNER) if s.state == "learn"]
    used = {s.step: s.version for s in trace.spans if s.state == "generate"}
    return Outcome(
        seconds_a_step=w.step_s,
        tokens_a_second=tokens / (w.end - w.start),
        learner=learner,
        samplers=samplers,
        idle=1 - busy / (learners + each * len(every)),
        bound=_bound(gains),
        gains=gains,
        staleness=max(s.version - used[s.step] for s in learning),
        trace=trace,
        window=w,
    )


def changes(d: Durations) -> dict[str, Durations]:
    """The same cluster with one part twice as fast."""
    return {
        "generation": replace(d, generate=d.generate / 2),
        "learner": replace(d, learn=d.learn / 2),
        "publication": replace(d, send_s=d.send_s / 2, swap_s=d.swap_s / 2),
    }


def _gains(d: Durations, ahead: int, steps: int, machine: Machine | None, step_s: float) -> dict[str, float]:
    faster = {name: (changed, ahead) for name, changed in changes(d).items()}
    more = {**faster, "one step further ahead": (d, ahead + 1)}
    if d.steps < simulated(ahead + 1, steps):
        more.pop("one step further ahead")
    found = {}
    for name, (changed, k) in more.items():
        found[name] = step_s / window(simulate(changed, k, machine), k, steps).step_s - 1
    return found


def _bound(gains: Mapping[str, float]) -> str:
    most = max(gains, key=lambda name: gains[name])
    if gains[most] < BALANCED:
        return "balanced"
    return "turns" if most == "one step further ahead" else most


@dataclass(frozen=True)
class Planned:
    """A cluster, what it would do, and where the time of its pieces goes."""

    cluster: Cluster
    outcome: Outcome
    generation: Mapping[str, float]  # shares of the slowest sampler's time: prompts, weights, cache, compute, constant
    in_flight: float  # mean responses in flight in a sampler while it generates
    learning: Learned  # mean step
    published_bytes: float
    send_s: float
    ragged: float  # gain if all responses were equally long

    def json(self) -> dict[str, Any]:
        found = {k: v for k, v in asdict(replace(self, outcome=None)).items() if k != "outcome"}  # type: ignore[arg-type]
        return {**found, "gpus": self.cluster.gpus, **self.outcome.json()}


def again(draws: Sequence[Draw], count: int) -> list[Draw]:
    """So many steps, which have the draws in turn: any window of as many steps as there are draws has each once."""
    return [draws[s % len(draws)] for s in range(count)]


def durations(rates: Roofline, draws: Sequence[Draw], count: int) -> Durations:
    """Of ``count`` steps, which have the draws in turn, by the hardware's figures."""
    c, turn = rates.c, np.arange(count) % len(draws)
    generate = [[sum(rates.generate(s).values()) for s in d.shares(c.samplers)] for d in draws]
    return Durations(
        generate=np.array(generate)[turn],
        learn=np.array([rates.learn(d).seconds for d in draws])[turn],
        score=np.full(count, c.score_s),
        record=np.zeros(count),
        send_s=rates.send_s,
        swap_s=c.swap_s,
        held=c.publish == "held",
        driver=c.launch == "driver",
    )


def plan(c: Cluster) -> Planned:
    """Simulate a cluster. Raises ArgumentError when the model does not fit, MissingExtra without simpy."""
    rates, draws, count = Roofline(c), [draw(c, s) for s in range(c.steps)], simulated(c.ahead + 1, c.steps)
    d = durations(rates, draws, count)
    found = outcome(d, again(draws, count), c.ahead, c.steps, None, (c.learners, c.sampler_gpus))
    even = durations(rates, equal(draws), count)
    smooth = window(simulate(even, c.ahead), c.ahead, c.steps).step_s
    slowest = draws[0].shares(c.samplers)[int(d.generate[0].argmax())]
    parts, flight = rates.generate(slowest), rates.flight(slowest)
    learned = [rates.learn(each) for each in draws]
    return Planned(
        cluster=c,
        outcome=found,
        generation={name: value / sum(parts.values()) for name, value in parts.items()},
        in_flight=flight.tokens / float(flight.steps.sum()),
        learning=Learned(*(float(np.mean([getattr(x, name) for x in learned])) for name in asdict(learned[0]))),
        published_bytes=rates.published_bytes,
        send_s=rates.send_s,
        ragged=found.seconds_a_step / smooth - 1,
    )
