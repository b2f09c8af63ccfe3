"""A run put together from its settings: prepared, checked, trained, tested, reported. A trial's workers call it too."""

from __future__ import annotations

import platform
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from equipoise import recipes, tasks
from equipoise.budget import Budget, Ledger, amounts, flag, journalled, show
from equipoise.errors import ArgumentError, BudgetError, PeerLost, RecordError
from equipoise.job import preflight
from equipoise.job.costs import smallest_step
from equipoise.job.engines import open_engine, processes
from equipoise.job.settings import Settings, settings
from equipoise.keys import Key
from equipoise.parts.objectives.mismatch import weighted
from equipoise.parts.signals import judge
from equipoise.parts.sources.attempts import longest_evaluated
from equipoise.protocols import Engine
from equipoise.recipe import Recipe
from equipoise.record import rollouts
from equipoise.record.folder import Folder
from equipoise.record.trackers import open_tracker, tracker
from equipoise.run.loop import Loop, Report, Schedule
from equipoise.tasks.progress import heard_by
from equipoise.types import Cost, Prompt, Split, Task

EVAL_SHARE = 0.25  # of the budget, the most that scheduled evaluation takes unless told otherwise
EVAL_POINTS = 5
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A run before its first step."""

    settings: Settings
    task: Task
    engine: Engine
    recipe: Recipe
    budget: Budget
    points: int  # of scheduled evaluation
    evaluation: Cost  # most that one of them can cost
    items: Mapping[Split, int]  # used of a split: what was asked for, or all that it has


# -- preparation ---------------------------------------------------------------------------------------------------


def prepare(s: Settings) -> Prepared:
    """Load task and model, build the recipe, settle the budget. Raises what is wrong with any of them."""
    from equipoise.engine.local import deterministic

    recipes.method(s.method)  # misspelt names are told before anything slow happens
    preflight.known(s.allow)
    tracker(s.track)
    deterministic(s.threads)
    task = tasks.load(s.task, **s.knobs)
    recipe = _recipe(s, task)
    budget = s.budget if s.budget.limits() else recipe.budget
    _spendable(recipe, budget)
    engine = open_engine(s, recipe.heads)
    try:
        return _fitted(s, task, recipe, engine, budget)
    except BaseException:
        engine.close()
        raise


def _recipe(s: Settings, task: Task) -> Recipe:
    recipe = recipes.build(s.method, task, **s.arguments)
    return recipe if s.truncate is None else weighted(recipe, s.truncate)


def _fitted(s: Settings, task: Task, recipe: Recipe, engine: Engine, budget: Budget) -> Prepared:
    """Held against the model: what it cannot read, or the budget cannot pay, is told here."""
    task = fitted(task, engine, s)
    recipe = _recipe(s, task)  # on the rows that are left
    _testable(task, s)
    evaluation = evaluation_bound(engine, task, s, recipe.adjust is not None)
    points = _points(s, budget, evaluation)
    _affordable(recipe, task, engine, budget, s)
    _learnable(recipe, engine)
    items = {name: min(asked, len(task.splits[name])) for name, asked in _asked(s, points).items()}
    return Prepared(s, task, engine, recipe, budget, points, evaluation, items)


def _asked(s: Settings, points: int) -> dict[Split, int]:
    """Items that were asked for of each split that is evaluated on."""
    return {"validation": s.eval.items, "test": s.test.items} if points else {"test": s.test.items}


def fitted(task: Task, engine: Engine, s: Settings) -> Task:
    """A task on the user's own data, held against the model's context: over-long rows refused, dropped or cut."""
    if not s.task.startswith("file:"):
        return task
    from equipoise.tasks.file import fit

    return fit(task, engine, str(s.knobs.get("long", "refuse")))


def _spendable(recipe: Recipe, budget: Budget) -> None:
    for unit in budget.limits():
        if unit not in recipe.spends:
            can = ", ".join(f"--budget.{flag(u)}" for u in sorted(recipe.spends))
            raise BudgetError(
                f"{recipe.name} spends no {unit.replace('_', ' ')}, so --budget.{flag(unit)} would never end it. "
                f"It can be limited by {can}."
            )
    for stage in recipe.stages:
        if not stage.finite and not stage.spends & budget.limits().keys():
            can = ", ".join(f"--budget.{flag(u)}" for u in sorted(stage.spends))
            raise BudgetError(
                f"stage {stage.name!r} of {recipe.name} spends none of what is limited ({budget}), so it would never "
                f"end. Limit as well one of {can}."
            )


def _testable(task: Task, s: Settings) -> None:
    """Raises ArgumentError when a test or an evaluation would have no interval: better told before the run begins."""
    ways: dict[Split, str] = {"test": ", or give --task.test PATH" if s.task.startswith("file:") else ""}
    if s.eval.points != 0:
        ways["validation"] = ", or train without scheduled evaluation: --eval.points 0"
    for split, way in ways.items():
        if (n := len(task.splits[split])) < 2:
            more = f"Choose knobs of the task (--task.<knob>) that give it more {split} items"
            if s.task.startswith("file:"):
                more = f"Add rows, mark more of them as {split} in a 'split' column"
            raise ArgumentError(
                f"task {task.name} has {n} {split} items, and an interval needs at least 2. {more}{way}."
            )


def evaluation_bound(engine: Engine, task: Task, s: Settings, adjusted: bool = False) -> Cost:
    """The most that one scheduled evaluation can cost. ``adjusted``: the decoder is, and read once more to tell how far
    that moves it."""
    prompts = [engine.encode(p) for p in task.splits["validation"][: s.eval.items]]
    if task.verify is not None:
        most = [longest_evaluated(engine, task, p) for p in prompts]
        bounds = [
            engine.bound(len(p.ids or ()), s.eval.samples, n, True, int(adjusted), 0)
            for p, n in zip(prompts, most, strict=True)
        ]
    else:
        bounds = [engine.bound(len(p.ids or ()), 2, _longest_reply(engine, task, p), False, 1, 0) for p in prompts]
    return sum(bounds, Cost())


def _longest_reply(engine: Engine, task: Task, prompt: Prompt) -> int:
    """Tokens of the longest reply that the data has for an encoded prompt; at least 1."""
    pair = task.pair(prompt) if task.pair else None
    one = task.demonstrate(prompt) if task.demonstrate else None
    replies = [*(pair or ()), *([one] if one is not None else [])]
    return max([len(engine.encode_reply(prompt, r, "held out").ids) for r in replies], default=1)


def _points(s: Settings, budget: Budget, evaluation: Cost) -> int:
    """How often to evaluate. Raises BudgetError when what was asked for cannot be paid."""
    wanted = amounts(evaluation, s.prices)
    share = max((wanted[u] / limit for u, limit in budget.limits().items()), default=0.0)
    if s.eval.points is None:
        return EVAL_POINTS if share == 0 else min(EVAL_POINTS, int(EVAL_SHARE / share))
    if s.eval.points * share > 0.9:
        raise BudgetError(
            f"{s.eval.points} evaluations of {s.eval.items} items x {s.eval.samples} samples may take "
            f"{s.eval.points * share:.0%} of the budget ({budget}). Lower --eval.points, --eval.items or "
            "--eval.samples, or raise the budget."
        )
    return s.eval.points


def _affordable(recipe: Recipe, task: Task, engine: Engine, budget: Budget, s: Settings) -> None:
    """Raises BudgetError when not even one group of some stage fits that stage's part of the budget."""
    begun = 0.0
    for stage in recipe.stages:
        smallest = sum((smallest_step(stream, task, engine) for stream in stage.streams), Cost())
        need = amounts(smallest, s.prices)
        for unit, limit in budget.limits().items():
            if need[unit] > limit * (stage.until - begun):
                raise BudgetError(
                    f"--budget.{flag(unit)} {show(limit)} is below the smallest step of {recipe.name}, stage "
                    f"{stage.name}, which may cost {show(need[unit])} {unit.replace('_', ' ')} and has "
                    f"{stage.until - begun:.0%} of the budget; expected at least "
                    f"{show(need[unit] / (stage.until - begun))}."
                )
        begun = stage.until


def _learnable(recipe: Recipe, engine: Engine) -> None:
    """Raises ArgumentError for a learning rate that is no positive number."""
    for stage in recipe.stages:
        lr = stage.lr.resolve(engine.info)
        if not 0 < lr < float("inf"):
            raise ArgumentError(f"the learning rate of stage {stage.name} is {lr:g}; expected a number above 0 (--lr)")


# -- a run -----------------------------------------------------------------------------------------------------------


def run_job(spec: Mapping[str, Any], out: Path, report: Report) -> None:
    """Train (or go on), test, write ``final.json``. ``spec``: ``Settings.json()``, or {"kind": "start", ...} for the
    start model's test alone. ``report`` hears {"event": "say" | "reading" | "step" | "test", ...}."""
    from equipoise.evaluate import shortfall

    only_start = spec.get("kind") == "start"
    s = settings({k: v for k, v in spec.items() if k != "kind"})
    folder = Folder(out)
    with folder.locked(), ExitStack() as stack:
        fresh = not (folder / "run.toml").exists()
        if folder.finished:
            return
        stack.enter_context(heard_by(report))
        prepared = prepare(s)  # first: what cannot run leaves no directory in the way of the next try
        stack.callback(prepared.engine.close)
        for split, asked in _asked(s, 0 if only_start else prepared.points).items():
            if (short := shortfall(prepared.task, split, asked)) is not None:
                report({"event": "say", "text": short})
        if prepared.task.close is not None:
            stack.callback(prepared.task.close)
        if fresh:
            folder.create()
            folder.write_toml("run.toml", s.json() | {"resolved": resolved(prepared)})
        elif not only_start:
            _same_world(folder, prepared)
        if only_start:
            _finish(prepared, folder, "not trained", Ledger(prepared.budget), report, start=False)
        else:
            report({"event": "say", "text": _begun(prepared)})
            _persist(prepared, folder, report, stack)


def _begun(p: Prepared) -> str:
    """The budget in force and how often it pays for an evaluation."""
    own = "" if p.settings.budget.limits() else f" ({p.recipe.name}'s own: none was given)"
    rare = " (the budget pays for no more; --eval.points asks for them)" if p.settings.eval.points is None else ""
    often = f"up to {p.points} evaluations on the way{rare if p.points < EVAL_POINTS else ''}"
    return f"budget: {p.budget}{own}; {often}"


def _persist(p: Prepared, folder: Folder, report: Report, stack: ExitStack) -> None:
    """Train; where a process of a cluster is lost, open the engine anew and go on from the last checkpoint."""
    retries = p.settings.cluster.retries if p.settings.cluster else 0
    for left in range(retries, -1, -1):
        try:
            if left < retries:
                p = replace(p, engine=open_engine(p.settings, p.recipe.heads))
                stack.callback(p.engine.close)
            _train(p, folder, report, stack)
            return
        except PeerLost as lost:
            p.engine.close()
            if not left:
                raise PeerLost(f"{lost}; go on with: equipoise resume {folder.path}") from lost
            often = f"retry {retries - left + 1} of {retries}"
            report({"event": "say", "text": f"{lost}; going on from the last checkpoint ({often})"})


def _train(p: Prepared, folder: Folder, report: Report, stack: ExitStack) -> None:
    s = p.settings
    if s.test.start and not (folder / "evaluation" / "start.json").exists():
        report({"event": "say", "text": "testing the start model"})
        _test(p, folder, "start", report)
    ledger = Ledger(p.budget, s.prices, stack.enter_context((folder / "ledger.jsonl").open("a")))
    track = open_tracker(s.track, folder.path.name, folder.path, s.json())

    def heard(event: Mapping[str, Any]) -> None:
        report(event)
        if event["event"] == "step":
            numbers = {k: v for k, v in event.items() if isinstance(v, (int, float)) and k not in ("event", "step")}
            track(numbers, int(event["step"]))

    with interruptible(report) as stop:  # the final test is left at once: it begins anew in a resume
        loop = _loop(p, folder, ledger, heard, stop)
        if not loop.at.opened:
            _preflight(p, folder, ledger, report)
        reason = loop.run()
    ledger.stop_clock()
    folder.write_json("spent.json", ledger.report())
    if reason == "interrupted":
        again = f"equipoise resume {folder.path}"
        report({"event": "say", "text": f"stopped after step {loop.at.step}; go on with: {again}"})
        return
    _finish(p, folder, reason, ledger, report, start=s.test.start)


def _loop(p: Prepared, folder: Folder, ledger: Ledger, report: Report, stop: Callable[[], bool]) -> Loop:
    """The loop at the start, or as the last checkpoint left it; the clock of the budget runs from here."""
    schedule = Schedule(p.points, p.evaluation, lambda key: _validate(p, key)) if p.points else None
    options: dict[str, Any] = {"evaluation": schedule, "report": report, "stop": stop, "ahead": p.settings.ahead}
    loop = Loop(p.recipe, p.engine, ledger, folder, p.settings.seed, **options, checkpoint_s=p.settings.checkpoint_s)
    if any((folder / "checkpoints").glob("step-*[0-9]")):
        loop.restore()
        report({"event": "say", "text": f"going on from step {loop.at.step}"})
    else:
        folder.rewind(-1)
    ledger.book_lost(journalled(folder / "ledger.jsonl")[0])
    ledger.start_clock()
    return loop


def _preflight(p: Prepared, folder: Folder, ledger: Ledger, report: Report) -> None:
    if not p.settings.preflight:
        return
    report({"event": "say", "text": f"preflight on {preflight.PROMPTS} prompts"})
    bounds = preflight.bounds(p.recipe, p.task, p.engine)
    if ledger.reserve(bounds)[0] < len(bounds):
        ledger.settle({})
        raise BudgetError(
            f"the budget ({p.budget}) does not pay for the preflight on {preflight.PROMPTS} prompts. Raise it, or "
            "leave the preflight out with --no-preflight."
        )
    knobs = {f"task.{flag(name)}" for name in tasks.signature(p.settings.task)}
    flags = knobs | set(recipes.method(p.settings.method).arguments)
    before = p.engine.spent()
    groups, faults = preflight.preflight(
        p.recipe, p.task, p.engine, Key((p.settings.seed,)), lambda groups: judge(p.task, groups), flags
    )
    ledger.settle({"preflight": p.engine.spent() - before})
    rollouts.write(
        folder / "rollouts", 0, list(rollouts.rows([(g, "preflight") for g in groups], 0, "preflight", 0, None))
    )
    preflight.check(faults, p.settings.allow, folder.path)


def _validate(p: Prepared, key: Key) -> dict[str, float]:
    from equipoise.evaluate import evaluate

    e = p.settings.eval
    ks = sorted({1, e.samples})
    found = evaluate(p.engine, p.task, "validation", e.items, e.samples, key, ks, adjust=p.recipe.adjust)
    numbers: dict[str, float] = {}
    for name, estimate in found.metrics.items():
        numbers |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return numbers


def _test(p: Prepared, folder: Folder, name: str, report: Report, trained: bool = False) -> dict[str, Any]:
    """Evaluate on the test split, not charged; the same keys for every method and seed, so that arms are paired."""
    from equipoise.evaluate import evaluate, write

    t, of = p.settings.test, "trained" if trained else "start"
    found = evaluate(
        p.engine,
        p.task,
        "test",
        t.items,
        t.samples,
        Key((p.settings.seed, "test")),
        ks=sorted({1, t.samples}),
        adjust=p.recipe.adjust if trained else None,
        on_progress=lambda done, total: report({"event": "test", "of": of, "done": done, "total": total}),
    )
    write(found.groups, folder / "evaluation" / f"{name}.parquet")
    folder.write_json(f"evaluation/{name}.json", found.json())
    return found.json()


def _finish(p: Prepared, folder: Folder, reason: str, ledger: Ledger, report: Report, start: bool) -> None:
    s = p.settings
    trained = reason != "not trained"
    if trained:
        p.engine.export(folder / "model")
    report({"event": "say", "text": "testing" + (" the trained model" if trained else " the start model")})
    test = _test(p, folder, "test", report, trained)
    before = _read_json(folder / "evaluation" / "start.json") if start else None
    spent = {**amounts(ledger.spent, s.prices), "labels": dict(ledger.spent.labels)}
    folder.write_json(
        "final.json",
        {
            "method": s.method if trained else "start",
            "seed": s.seed,
            "task": s.task,
            "model": s.model,
            "budget": p.budget.limits(),
            "spent": spent,
            "spent_on": ledger.report(),
            "unspent": ledger.unspent(),
            "test": test,
            "start": before,
            "stopped": reason,
        },
    )
    report({"event": "say", "text": f"done: {reason}"})


def _read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_text())


# -- what the run stands on --------------------------------------------------------------------------------------


def resolved(p: Prepared) -> dict[str, Any]:
    """What the settings came to on this machine: recorded, and compared on resume."""
    import torch

    from equipoise.engine.local import products

    versions = {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    return {
        "budget": p.budget.limits(),
        "lr": {stage.name: stage.lr.resolve(p.engine.info) for stage in p.recipe.stages},
        "evaluations": p.points,
        "decoder": p.recipe.adjust.name if p.recipe.adjust else "plain",
        "items": {str(name): n for name, n in p.items.items()},
        "revision": p.engine.info.revision,
        "dtype": p.engine.info.dtype,
        "device": p.engine.info.device,
        "products": products.kind(p.engine.info.device, p.engine.info.dtype),
        "processes": processes(p.settings),
        "fingerprint": p.task.fingerprint,
        "threads": torch.get_num_threads(),
        "versions": {"equipoise": metadata.version("equipoise"), **versions},
        "commit": _commit(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _commit() -> str | None:
    """The checkout's commit, if the package runs from one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _same_world(folder: Folder, p: Prepared) -> None:
    """A resumed run must see the same data, threads and libraries, or it would not be the same run."""
    then, now = folder.read_toml("run.toml")["resolved"], resolved(p)
    if then["fingerprint"] != now["fingerprint"]:
        raise RecordError(
            f"{folder.path} was trained on other data (fingerprint {then['fingerprint']}, now {now['fingerprint']}). "
            "Bring the data back, or start a new run."
        )
    if "world" in p.settings.allow:
        return
    then.setdefault("processes", processes(replace(p.settings, cluster=None)))  # before there were others
    then.setdefault("products", now["products"])
    for what in ("threads", "dtype", "device", "products", "processes", "versions"):
        if then[what] != now[what]:
            raise RecordError(
                f"{folder.path} ran with {what} {then[what]}, and now there is {now[what]}: the rest would not be "
                f"bit-identical. Restore it (--threads for threads; --learners, --samplers for processes; products are "
                "the processor's), or go on all the same with --allow world."
            )


@contextmanager
def interruptible(report: Report) -> Iterator[Callable[[], bool]]:
    """First Ctrl-C: finish the step, checkpoint, report. Second: stop at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        report({"event": "say", "text": "stopping after this step (Ctrl-C again: at once)"})

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def saved(path: Path) -> Settings:
    """The settings of a run directory or of a ``run.toml``."""
    from equipoise.record.folder import read_toml

    content = read_toml(path / "run.toml" if path.is_dir() else path)
    content.pop("resolved", None)
    return settings(content)


def with_threads(s: Settings, threads: int) -> Settings:
    """The settings with a number of threads, if they name none."""
    return s if s.threads is not None else replace(s, threads=threads)
