"""The loop: draws groups, scores them, gives credit, updates, records; stage by stage, until the budget is spent.

It knows no method, no padding and no device. All that it must remember is in ``Progress``, which a checkpoint holds;
everything else is a function of that, of the seed and of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from equipoise.budget import Ledger, amounts
from equipoise.engine.batch import count
from equipoise.errors import Diverged
from equipoise.keys import Key
from equipoise.protocols import Context, Engine, Sampling, State
from equipoise.recipe import Recipe, Stage, Stream, policies
from equipoise.record import checkpoint, rollouts
from equipoise.record.folder import Folder
from equipoise.record.metrics import describe
from equipoise.run.ahead import Draws, Sourced
from equipoise.types import Cost, Group, Note, Objective
from equipoise.verify import check_failures, failed

# Groups without gradient are not trained on, so under a limit on trained tokens a solved task would go on forever.
IDLE = 100
READ = ("logp", "logsumexp")  # outputs of other policies that an objective may ask for, as "<output>:<policy>"
LONGER = 1.25  # than the longest before it, the most that a step or an evaluation is expected to take
MISMATCH = 0.01  # nats a token between sampler and learner, mean of a step: above it something is wrong
ROUNDED = 0.08  # the same where products round to bfloat16: twice the most that this alone gave in the main job
Report = Callable[[Mapping[str, Any]], None]


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    stage: int = 0
    entered: bool = False
    begun: float = 0.0  # share of the budget spent when the stage began
    stage_steps: int = 0
    streams: list[State] = field(default_factory=list)
    evaluated: int = 0
    opened: bool = False  # base kept, first evaluation made
    closed: bool = False
    idle: int = 0  # steps in a row that spent nothing of the budget
    verdicts: int = 0
    failed: int = 0
    longest_s: float = 0.0  # of a step
    evaluation_s: float = 0.0  # of an evaluation


@dataclass
class Drawn:
    """One stream's part of a step: what is used, what filters dropped, what it cost."""

    stream: Stream
    groups: list[Group]
    dropped: list[Group]
    short: bool  # the budget allowed none of the groups that were there to draw
    cost: Cost


@dataclass(frozen=True)
class Schedule:
    """When and how to evaluate during training: at ``points`` shares of the budget, evenly from 0 to 1."""

    points: int
    bound: Cost
    evaluate: Callable[[Key], dict[str, float]]

    def due(self, done: int, fraction: float) -> bool:
        if done >= self.points:
            return False
        return fraction >= (done / (self.points - 1) if self.points > 1 else 1.0)


class Loop:
    """One run of a recipe by an engine into a folder.

    ``stop()`` is asked between steps; ``report`` hears of every step; ``evaluation`` None: none during training.
    ``ahead``: steps that are drawn before the policy is there that learns from them (``run.ahead``).
    """

    def __init__(
        self,
        recipe: Recipe,
        engine: Engine,
        ledger: Ledger,
        folder: Folder,
        seed: int,
        *,
        evaluation: Schedule | None = None,
        report: Report = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
        checkpoint_s: float = 60.0,
        ahead: int = 0,
    ) -> None:
        self.recipe, self.engine, self.ledger, self.folder = recipe, engine, ledger, folder
        self.key, self.evaluation, self.report, self.stop = Key((seed,)), evaluation, report, stop
        self.checkpoint_s, self.saved_at = checkpoint_s, time.monotonic()
        self.at = Progress()
        self.stores: dict[str, list[Group]] = {}
        self.tail = self.ledger.share(evaluation.bound) if evaluation and evaluation.points else 0.0
        self.draws = Draws(ahead, self._source)

    # -- from start or checkpoint to the end ---------------------------------------------------------------------

    def restore(self) -> None:
        """Go back to the newest checkpoint; what the record shows beyond it is taken back."""
        path = checkpoint.newest(self.folder / "checkpoints")
        state = checkpoint.read_state(path)
        self.engine.load(path / "engine")
        self.at = Progress(**state["progress"])
        self.ledger.restore(state["ledger"])
        self.draws.restore(path / "ahead", self.ledger)
        self.folder.rewind(self.at.step)
        names = {s.store for stage in self.recipe.stages for s in stage.streams if s.store}
        self.stores = {name: rollouts.read(self.folder / "rollouts", name) for name in sorted(names)}

    def save(self) -> None:
        """Write a checkpoint of this instant."""
        for draw in self.draws.waiting:
            draw.sourced()  # it moves its source's state and the ledger
        checkpoint.save(
            self.folder / "checkpoints",
            self.engine,
            {"step": self.at.step, "progress": asdict(self.at), "ledger": self.ledger.state()},
            self.draws.save,
        )
        self.saved_at = time.monotonic()

    def run(self) -> str:
        """Train to the end; says why it ended: "budget spent", "sources dry", "steps done" or "interrupted"."""
        try:
            return self._run()
        finally:
            self.draws.close()

    def _run(self) -> str:
        reason = "budget spent"
        if not self.at.opened:
            self.at.opened = True
            if any(n.endswith(":base") for n in self.recipe.needs) or any(s.restart for s in self.recipe.stages):
                self.engine.combine("base", {"current": 1.0})
            self._evaluate({"step": 0}, {})
            self.save()
        while self.at.stage < len(self.recipe.stages):
            if self.stop():
                reason = "interrupted"
                break
            stage = self.recipe.stages[self.at.stage]
            ended = self._advance(stage)
            if ended is None:
                if time.monotonic() - self.saved_at > self.checkpoint_s:
                    self.save()
                continue
            self._forgo(stage)
            reason, self.at.stage, self.at.entered = ended, self.at.stage + 1, False
        if reason != "interrupted" and not self.at.closed:
            self._close()
        self.save()
        return reason

    def _advance(self, stage: Stage) -> str | None:
        """One step of the stage; or why it has ended."""
        self.ledger.ceiling = min(stage.until, 1.0 - self.tail)
        if not self.at.entered:
            self._enter(stage)
        if stage.steps is not None and self.at.stage_steps >= stage.steps:
            return "steps done"
        if self._out_of_time():
            return "budget spent"
        try:
            return self._step(stage)
        except Diverged as e:
            raise Diverged(f"step {self.ledger.step}: {e}. {KEPT}") from e

    def _out_of_time(self, steps: int = 1, evaluations: int = 1) -> bool:
        """Whether so many more might pass a limit of seconds: each may take a quarter longer than the longest yet."""
        limit = self.ledger.budget.seconds
        ahead = steps * self.at.longest_s + evaluations * self.at.evaluation_s
        return limit is not None and self.ledger.spent.seconds + LONGER * ahead > limit

    def _enter(self, stage: Stage) -> None:
        # Weights are set even where they stay the same: that clears the optimiser, so a stage begins afresh.
        self.engine.combine("current", {"base" if stage.restart else "current": 1.0})
        asked = [need for stream in stage.streams for need in stream.needs]
        if any(need.endswith(":start") for need in asked) or any("start" in e.weights for e in stage.events):
            self.engine.combine("start", {"current": 1.0})
        for name in sorted({event.into for event in stage.events} - {"current"}):
            self.engine.combine(name, {"current": 1.0})
        self.at.streams = [{"source": None, "signal": None, "credit": None} for _ in stage.streams]
        self.at.entered, self.at.begun, self.at.stage_steps, self.at.idle = True, self.ledger.fraction(), 0, 0

    # -- one step --------------------------------------------------------------------------------------------------

    def _step(self, stage: Stage) -> str | None:
        self.ledger.step = self.at.step + 1
        clock, fraction = _Clock(), self.ledger.fraction()
        drawn = self._drawn(stage, clock)
        drawing = sum((d.cost for d in drawn), Cost())
        idle = [d for d in drawn if not d.groups and not d.dropped]
        if idle:
            self._settle_unused(drawn)
            self._discard(stage, drawn, clock)
            return "budget spent" if any(d.short for d in idle) else "sources dry"
        self._launch(stage)
        before = self.engine.spent()
        self.at.step, self.at.stage_steps = self.at.step + 1, self.at.stage_steps + 1
        lr = stage.lr.lr((fraction - self.at.begun) / max(self.ledger.ceiling - self.at.begun, 1e-9), self.engine.info)
        learned, uses = self._learn(drawn, lr)
        for event in stage.events:
            if self.at.stage_steps % event.every == 0:
                self.engine.combine(event.into, event.weights)
        clock.lap("train")
        self.ledger.settle({"sampling": drawing, "training": self.engine.spent() - before})
        self._record(stage, drawn, uses, {**learned, "lr": lr} if learned else {}, clock)
        self.at.idle = 0 if self.ledger.fraction() > fraction else self.at.idle + 1
        return f"stalled: {IDLE} steps spent nothing of the budget" if self.at.idle >= IDLE else None

    def _discard(self, stage: Stage, drawn: Sequence[Drawn], clock: _Clock) -> None:
        """Record what was drawn beside a stream that had nothing: a step in the record that learned nothing."""
        unused = [replace(d, stream=replace(d.stream, store=None)) for d in drawn]
        if any(d.groups or d.dropped for d in unused):
            self.at.step += 1
            self._record(stage, unused, [_uses(d, [], "unused") for d in unused], {}, clock)

    def _drawn(self, stage: Stage, clock: _Clock) -> list[Drawn]:
        """What the step learns from: drawn ahead of it, or now."""
        early = self.draws.take(self.ledger)
        clock.lap("generate")
        drawn = []
        for i in range(len(stage.streams)):
            mine = early[i] if early else self._sourced(stage, i)
            if early and mine.empty and mine.short:  # a guide may have begun what then did not fit
                mine = self._sourced(stage, i)
                mine.cost += early[i].cost
            clock.lap("generate")
            drawn.append(self._scored(stage, i, mine, clock))
        return drawn

    def _context(self, stream: Stream, i: int, **changed: Any) -> Context:
        def bound(prompt_tokens: int, n: int, longest: int, sampled: bool) -> Cost:
            return self.engine.bound(prompt_tokens, n, longest, sampled, *passes(stream))

        now: dict[str, Any] = {
            "engine": self.engine,
            "ledger": self.ledger,
            "stores": self.stores,
            "step": self.at.step,
        }
        return Context(key=self.key / self.at.stage / i, bound=bound, **{**now, **changed})

    def _sourced(self, stage: Stage, i: int, launched: int | None = None, **changed: Any) -> Sourced:
        """What a stream's source gives. ``changed``: how its context differs from that of the step at hand."""
        ctx, state, started = self._context(stage.streams[i], i, **changed), self.at.streams[i], time.monotonic()
        before = ctx.engine.spent()
        groups, after = stage.streams[i].source(ctx, [], state["source"])
        cost, seconds = ctx.engine.spent() - before, time.monotonic() - started
        at = self.at.step if launched is None else launched
        found = Sourced(groups, ctx.dropped, ctx.reserved, cost, at, seconds)
        if not (launched is not None and found.empty and found.short):  # then the step draws again by itself
            state["source"] = after
        return found

    def _source(
        self, engine: Sampling, ledger: Any, stores: Mapping[str, Sequence[Group]], step: int, launched: int
    ) -> list[Sourced]:
        """All streams' sources for a step to come."""
        stage = self.recipe.stages[self.at.stage]
        at = {"engine": engine, "ledger": ledger, "stores": stores, "step": step}
        return [self._sourced(stage, i, launched, **at) for i in range(len(stage.streams))]

    def _scored(self, stage: Stage, i: int, sourced: Sourced, clock: _Clock) -> Drawn:
        stream, state, groups = stage.streams[i], self.at.streams[i], sourced.groups
        ctx = self._context(stream, i, dropped=sourced.dropped, reserved=sourced.asked)
        before = self.engine.spent()
        if stream.signal is not None:
            groups, state["signal"] = stream.signal(ctx, groups, state["signal"])
        clock.lap("score")
        self._count_failures([*groups, *ctx.dropped])
        if stream.credit is not None and groups:
            groups, state["credit"] = stream.credit(ctx, groups, state["credit"])
        clock.lap("credit")
        if self.draws.most:
            groups = [_aged(g, self.at.step - sourced.launched) for g in groups]
        labels = _sum(cost.labels for _, _, cost in ctx.reserved)
        spent = sourced.cost + self.engine.spent() - before + Cost(labels=labels)
        return Drawn(stream, groups, ctx.dropped, sourced.short, spent)

    def _launch(self, stage: Stage) -> None:
        """Begin draws of steps to come, as many as are to be on their way."""
        left = self.draws.most if stage.steps is None else stage.steps - self.at.stage_steps - 1
        sampled = policies(need for stream in stage.streams for need in stream.source.needs)
        while len(self.draws.waiting) < min(self.draws.most, left):
            self.draws.launch(self.engine, self.ledger, self.stores, self.at.step, sampled)

    def _forgo(self, stage: Stage) -> None:
        """Record and charge what was drawn for steps that do not come."""
        while self.draws.waiting:
            clock, early = _Clock(), self.draws.take(self.ledger)
            pairs = list(zip(stage.streams, early, strict=False))
            drawn = [Drawn(stream, s.groups, s.dropped, s.short, s.cost) for stream, s in pairs]
            self._settle_unused(drawn)
            self._discard(stage, drawn, clock)

    def _settle_unused(self, drawn: Sequence[Drawn]) -> None:
        """Charge what was sampled in vain; labels that no update saw were not shown."""
        spent = replace(sum((d.cost for d in drawn), Cost()), labels={})
        self.ledger.settle({"unused": spent} if spent != Cost() else {})

    def _count_failures(self, groups: Sequence[Group]) -> None:
        scores = [s for g in groups for s in g.scores]
        failures = failed(scores)
        self.at.verdicts += len(scores)
        self.at.failed += len(failures)
        check_failures(self.at.verdicts, self.at.failed, messages=[s.message for s in failures])

    def _learn(self, drawn: Sequence[Drawn], lr: float) -> tuple[dict[str, float], list[list[tuple[Group, str]]]]:
        """All updates of a step. Returns the learner's metrics and each stream's groups with how they were used."""
        plans = [self._plan(d) for d in drawn]
        updates = max((len(plan) for plan in plans), default=0)
        sums: dict[str, tuple[float, float]] = {}
        norms: list[float] = []
        for k in range(updates):
            moved = False
            for plan in plans:
                if k < len(plan):
                    moved |= plan[k].backward(self.engine, sums)
            if moved:
                norms.append(self.engine.step(lr)["grad_norm"])
        # The mismatch is the rollouts' to tell (record.metrics): here it would mix in the updates of the step.
        metrics = {name: total / n for name, (total, n) in sums.items() if n and not name.startswith("mismatch")}
        if norms:
            metrics["grad_norm"] = float(np.mean(norms))
        rests = ["silent" if d.stream.store is None else "stored" for d in drawn]
        return metrics, [_uses(*each) for each in zip(drawn, plans, rests, strict=True)]

    def _plan(self, d: Drawn) -> list[Minibatch]:
        """The optimiser steps to make of a stream's groups: epochs x minibatches of whole groups."""
        if d.stream.objective is None or not d.groups:
            return []
        updates = d.stream.updates
        order = (self.key / "minibatches" / self.at.step).permutation(len(d.groups))
        cuts = [sorted(part.tolist()) for part in np.array_split(order, updates.minibatches) if len(part)]
        parts = [Minibatch(d.stream, [d.groups[i] for i in cut], cut) for cut in cuts]
        for part in parts:
            part.annotate(self.engine, old=updates.epochs * len(parts) > 1)
        return parts * updates.epochs

    # -- record ----------------------------------------------------------------------------------------------------

    def _record(
        self,
        stage: Stage,
        drawn: Sequence[Drawn],
        uses: list[list[tuple[Group, str]]],
        learned: Mapping[str, float],
        clock: _Clock,
    ) -> None:
        lines: list[dict[str, Any]] = []
        first = 0
        for i, (d, used) in enumerate(zip(drawn, uses, strict=True)):
            if d.stream.store is not None:
                self.stores.setdefault(d.stream.store, []).extend(d.groups)
            lines += rollouts.rows(used, self.at.step, stage.name, i, d.stream.store, first)
            first += len(used)
        rollouts.write(self.folder / "rollouts", self.at.step, lines)
        found = describe([g for used in uses for g, _ in used])
        line = {"step": self.at.step, "stage": stage.name, **found, **learned}
        self._compare(found.get("mismatch", 0.0))
        clock.lap("record")
        self.at.longest_s = max(self.at.longest_s, sum(clock.laps.values()))
        self._evaluate(line, clock.laps)

    def _compare(self, mismatch: float) -> None:
        """Raise an alarm where sampler and learner are further apart than their precision explains."""
        dtype = self.engine.info.dtype
        most = ROUNDED if dtype == "bfloat16" else MISMATCH
        if mismatch > most:
            text = f"step {self.at.step}: sampler and learner differ by {mismatch:.3g} nats a token on average"
            fix = (
                "the policy gradient is biased. --dtype float32 tells if rounding is the cause, --truncate corrects it"
            )
            self.report({"event": "alarm", "text": f"{text}; in {dtype} expected at most {most:g}: {fix}"})

    def _evaluate(self, line: dict[str, Any], laps: dict[str, float]) -> None:
        """Evaluate if it is time and the budget allows; then write the step's line, before the next step begins."""
        started, schedule, fraction = time.monotonic(), self.evaluation, self.ledger.fraction()
        self.ledger.ceiling = 1.0 if fraction >= 1.0 - self.tail else 1.0 - self.tail
        if schedule is not None and schedule.due(self.at.evaluated, fraction):
            line |= self._evaluated(schedule)
        self._write(line, {**laps, "evaluate": time.monotonic() - started})

    def _write(self, line: dict[str, Any], laps: Mapping[str, float]) -> None:
        spent = amounts(self.ledger.spent, self.ledger.prices)
        line["fraction"] = self.ledger.fraction()
        line |= {f"spent/{unit}": value for unit, value in spent.items() if unit != "seconds"}
        timing = {"step": line["step"], "seconds": sum(laps.values()), **{f"{k}_s": v for k, v in laps.items()}}
        self.folder.append("timings.jsonl", timing | self.engine.timings())
        self.folder.append("metrics.jsonl", line)
        self.report({"event": "step", **line, "seconds": timing["seconds"]})

    def _evaluated(self, schedule: Schedule) -> dict[str, float]:
        fits, _ = self.ledger.reserve([schedule.bound])
        if self._out_of_time(0, 1 if self.at.closed else 2):  # the last one goes before those on the way
            fits = 0
        started = time.monotonic()
        self.at.evaluated += 1
        while schedule.due(self.at.evaluated, self.ledger.fraction()):
            self.at.evaluated += 1  # one step may pass several points
        if not fits:
            self.ledger.settle({})
            return {}
        before = self.engine.spent()
        found = schedule.evaluate(self.key / "validation")
        self.ledger.settle({"evaluation": self.engine.spent() - before})
        self.at.evaluation_s = max(self.at.evaluation_s, time.monotonic() - started)
        return {f"eval/{name}": value for name, value in found.items()}

    def _close(self) -> None:
        """The evaluation at the end of training, out of the share kept back for it; a step of its own in the record."""
        self.at.closed = True
        if self.evaluation is None or not self.evaluation.points:
            return
        self.at.step += 1
        self.ledger.step, self.ledger.ceiling = self.at.step, 1.0
        started = time.monotonic()
        line = {"step": self.at.step, "stage": "end", **self._evaluated(self.evaluation)}
        self._write(line, {"evaluate": time.monotonic() - started})


KEPT = "The last good checkpoint is kept; lower --lr and start again from it, or look at the rows named here."


@dataclass
class Minibatch:
    """The groups of one optimiser step of a stream, with what the engine noted on them."""

    stream: Stream
    groups: list[Group]
    index: list[int]  # of the groups, within the stream's step
    ran: set[int] = field(default_factory=set)

    def annotate(self, engine: Engine, old: bool) -> None:
        """Note what the objective needs to know from before the update."""
        assert self.stream.objective is not None
        self._read(engine, "current", {"logp": "old"} if old else {})
        for policy in sorted(reads(self.stream.objective)):
            names = {kind: f"{kind}:{policy}" for kind in READ}
            self._read(engine, policy, {k: n for k, n in names.items() if n in self.stream.objective.needs})

    def _read(self, engine: Engine, policy: str, wanted: Mapping[str, str]) -> None:
        """One pass of a policy over the groups: its outputs, named as notes. ``wanted``: output -> note."""
        found = engine.outputs(self.groups, sorted(wanted), policy) if wanted else []
        for output, note in wanted.items() if found else ():
            self.take(note, [outputs[output] for outputs in found], self.groups)

    def take(self, name: str, values: Sequence[tuple[Any, ...]], on: Sequence[Group]) -> None:
        """Put a token note on the groups ``on``, which are among ``self.groups``."""
        noted = {id(g): replace(g, notes={**g.notes, name: Note("token", v)}) for g, v in zip(on, values, strict=True)}
        self.groups = [noted.get(id(g), g) for g in self.groups]

    def backward(self, engine: Engine, sums: dict[str, tuple[float, float]]) -> bool:
        """Add the gradient and the metrics' sums; whether there was anything with a gradient in it."""
        objective = self.stream.objective
        assert objective is not None
        active = [k for k, g in enumerate(self.groups) if _trains(g) and not (objective.silent and _silent(g))]
        if not active:
            return False
        groups = [self.groups[k] for k in active]
        metrics, notes = engine.backward(groups, objective, count(self.groups, objective.totals))
        for name, (total, n) in metrics.items():
            had = sums.get(name, (0.0, 0.0))
            sums[name] = (had[0] + total, had[1] + n)
        # The learner's view before any update of this minibatch; of stored responses it is another policy's.
        if not self.ran and "generated_tokens" in self.stream.source.spends:
            self.take("logp", [note["logp"] for note in notes], groups)
        self.ran |= set(active)
        return True


def _aged(group: Group, steps: int) -> Group:
    """With the note "staleness": steps between the policy that sampled each response and this one; 0 if given."""
    ages = np.array([0.0 if r.logprobs is None else float(steps) for r in group.responses])
    return replace(group, notes={**group.notes, "staleness": Note("response", (ages,))})


def _trains(group: Group) -> bool:
    return any(r.trained.any() for r in group.responses)


def _silent(group: Group) -> bool:
    note = group.notes.get("advantage")
    return note is None or not any(v.any() for v in note.values)


def _uses(d: Drawn, plan: Sequence[Minibatch], rest: str) -> list[tuple[Group, str]]:
    """What became of a stream's groups, dropped ones last; ``rest``: of those that no update saw."""
    final: dict[int, tuple[Group, str]] = {}
    for part in plan:
        for k, (i, g) in enumerate(zip(part.index, part.groups, strict=True)):
            final[i] = (g, "trained" if k in part.ran else "silent")
    kept = [final.get(i, (g, rest)) for i, g in enumerate(d.groups)]
    return kept + [(g, "dropped") for g in d.dropped]


def reads(objective: Objective) -> set[str]:
    """The policies whose outputs an objective compares with: one pass each."""
    return {policy for kind, _, policy in (n.partition(":") for n in objective.needs) if kind in READ}


def passes(stream: Stream) -> tuple[int, int]:
    """Passes over a group's tokens (without gradient, with gradient) from being drawn to the last update."""
    if stream.objective is None:
        return 0, 0
    asked = [n for n in stream.needs if n.startswith("policy:")]
    forward = (
        len(asked)
        + len(reads(stream.objective))
        + any("head:" in n or n == "entropy" for p in stream.parts for n in p.needs)
        + (stream.updates.steps > 1)
    )
    # One more each epoch where the engine may first need outputs of the whole batch, or of a very large group.
    epochs = stream.updates.epochs
    return forward + epochs * (stream.objective.scope != "response"), epochs


def _sum(labels: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for mine in labels:
        for kind, n in mine.items():
            total[kind] = total.get(kind, 0) + n
    return total


class _Clock:
    """Seconds by purpose within a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now
