"""equipoise trial METHOD METHOD ... --task T --model M --budget....: methods at equal budget, with verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from equipoise import recipes
from equipoise.cli import options, train
from equipoise.cli.options import Flag
from equipoise.cli.resume import conclude
from equipoise.errors import ArgumentError
from equipoise.job.settings import TestSettings

HELP = "Compare methods at equal budget. An argument of one method is --METHOD.ARGUMENT, as in --grpo.samples 16."


def main(args: Sequence[str]) -> int:
    count = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
    methods = list(dict.fromkeys(args[:count]))
    if not methods and "--help" not in args and "-h" not in args:
        raise ArgumentError(f"name the methods to compare first; there are {', '.join(recipes.names())}")
    own = {m: options.of_method(m, f"{m}.") for m in methods}
    flags = [
        Flag("task", str, help="a task of `equipoise tasks`, reasoning_gym:<name>, or file:<path>"),
        *train.common(),
        Flag("seeds", int, 5, "how many: 5 means seeds 0 to 4"),
        Flag("out", str | None, None, "the trial's directory (default: runs/trial-<task>-<model>)"),
        Flag("jobs", int, 2, "processes; each gets cores/jobs threads"),
        Flag("engine", str, "local", "where jobs run. local: processes of this machine; ray: tasks of a Ray cluster"),
        Flag("ray-address", str | None, None, 'of ray: "auto" or host:port (default: a cluster is started)'),
        Flag("metric", str | None, None, "of the verdicts (default: pass@1, or loss without a verifier)"),
        *options.of_task(args),
        *[f for flags in own.values() for f in flags],
    ]
    v = options.parse("equipoise trial", HELP, flags, args[count:])
    if v["seeds"] < 1:
        raise ArgumentError(f"--seeds is {v['seeds']}; expected at least 1")
    shared = train.shared(v)
    budget = shared.pop("budget").limits()
    if not budget:
        raise ArgumentError("a trial needs a --budget, the same for every arm; for unlike methods use flops or usd")
    model, knobs = shared.pop("model"), shared.pop("knobs")
    changed = {m: _changed(own[m], v, f"{m}.") for m in methods}
    from equipoise.trial.runner import ArmSpec, trial

    out = Path(v["out"] or f"runs/trial-{v['task'].replace(':', '-').replace('/', '-')}-{model.replace('/', '-')}")
    test = TestSettings(v["test.items"], v["test.samples"], start=False)
    rest = {k: asdict(x) if k in ("eval", "prices", "optimiser") else x for k, x in shared.items()}
    done = trial(
        [ArmSpec(m, changed[m]) for m in methods],
        v["task"],
        model,
        range(v["seeds"]),
        budget,
        out,
        v["jobs"],
        options={**rest, "knobs": knobs, "test": asdict(test)},
        metric=v["metric"],
        place=options.place(v),
    )
    return conclude(out, done.interrupted)


def _changed(flags: Sequence[Flag], values: dict[str, object], prefix: str) -> dict[str, object]:
    """Arguments that differ from the recipe's own defaults."""
    return {f.name.removeprefix(prefix).replace("-", "_"): values[f.name] for f in flags if values[f.name] != f.default}
