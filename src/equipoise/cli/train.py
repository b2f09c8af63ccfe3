"""equipoise train METHOD --task T --model M: one run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise import recipes
from equipoise.cli import EXIT_INTERRUPTED, options
from equipoise.cli.options import Flag
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError
from equipoise.job.settings import EvalSettings, Settings, TestSettings

HELP = "Post-train a model with one method under a metered budget. `equipoise train METHOD --help` shows its arguments."


def common() -> list[Flag]:
    """Flags that a run and a trial share."""
    return [
        Flag("model", str, help='"tiny", "smollm2", a local folder, a run directory, or a Hub id with @revision'),
        Flag("device", str, "auto", "auto, cpu, cuda or mps"),
        Flag("dtype", str, "auto", "of the matrix products: auto, float32 or bfloat16; weights stay float32"),
        Flag("lora.rank", int | None, None, "train low-rank adapters of this rank instead of all weights"),
        Flag("checkpointing", bool, False, "recompute activations in backward passes: less memory, more FLOPs"),
        Flag("ahead", int, 0, "draw each step with the policy of so many steps before, to sample while it learns"),
        Flag("truncate", float | None, None, "weigh advantages by learner's over sampler's probability, at most this"),
        Flag("eval.points", int | None, None, "evaluations on validation during training, charged (default: up to 5)"),
        Flag("eval.items", int, 64, "validation items"),
        Flag("eval.samples", int, 4, "samples an item"),
        Flag("test.items", int, 200, "items of the final test, not charged"),
        Flag("test.samples", int, 4, "samples an item"),
        Flag("allow", tuple[str, ...], (), "preflight faults to go on with: truncated, unparsed, equal, no_eos; world"),
        Flag("preflight", bool, True, "look at eight prompts before spending"),
        *options.of_optimiser(),
        *options.of_budget(),
    ]


def shared(v: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``Settings`` from the common flags."""
    return {
        "model": v["model"],
        "device": v["device"],
        "dtype": v["dtype"],
        "lora_rank": v["lora.rank"],
        "checkpointing": v["checkpointing"],
        "ahead": v["ahead"],
        "truncate": v["truncate"],
        "eval": EvalSettings(v["eval.points"], v["eval.items"], v["eval.samples"]),
        "allow": tuple(v["allow"]),
        "preflight": v["preflight"],
        "budget": options.budget(v),
        "prices": options.prices(v),
        "optimiser": Optimiser(**options.under(v, "optimiser")),
        "knobs": options.under(v, "task"),
    }


def main(args: Sequence[str]) -> int:
    if "--from" in args or any(a.startswith("--from=") for a in args):
        return _replay(args)
    if not args or args[0].startswith("-"):
        names = ", ".join(recipes.names())
        print(f"usage: equipoise train METHOD --task T --model M [options]\n\n{HELP}\n\nMethods: {names}")
        if args and args[0] in ("-h", "--help"):
            return 0
        raise ArgumentError("a method comes first, as in `equipoise train grpo --task addition --model tiny`")
    method = recipes.method(args[0])
    own = options.of_method(method.name)
    flags = [
        Flag("task", str, help="a task of `equipoise tasks`, reasoning_gym:<name>, or file:<path>"),
        *common(),
        Flag("seed", int, 0),
        Flag("out", str | None, None, "the run directory (default: runs/<task>-<method>-<model>-s<seed>)"),
        Flag("threads", int | None, None, "processor threads (default: torch's)"),
        Flag("track", str | None, None, "tensorboard, wandb or trackio"),
        Flag("test.start", bool, True, "test the start model too"),
        Flag("dry-run", bool, False, "print what would run, and run nothing"),
        *options.of_engine(),
        *options.of_task(args),
        *own,
    ]
    about = method.about
    cited = f" (arXiv {about.arxiv})" if about.arxiv else ""
    v = options.parse(f"equipoise train {method.name}", f"{about.title}{cited}: {about.summary}", flags, args[1:])
    s = Settings(
        method=method.name,
        task=v["task"],
        seed=v["seed"],
        track=v["track"],
        threads=v["threads"],
        test=TestSettings(v["test.items"], v["test.samples"], v["test.start"]),
        cluster=options.cluster(v),
        arguments={f.name.replace("-", "_"): v[f.name] for f in own},
        **shared(v),
    )
    return start(s, Path(v["out"]) if v["out"] else default_out(s), v["dry-run"])


def _replay(args: Sequence[str]) -> int:
    from equipoise.job.job import saved

    flags = [
        Flag("from", str, help="a run.toml, or a run directory"),
        Flag("out", str | None, None),
        Flag("seed", int | None, None),
        Flag("dry-run", bool, False),
    ]
    rest = [a for i, a in enumerate(args) if i or a.startswith("-")]
    v = options.parse(
        "equipoise train", "Run again what a run.toml says; only these flags go with --from.", flags, rest
    )
    s = saved(Path(v["from"]))
    if rest != list(args) and args[0] != s.method:
        raise ArgumentError(f"the method is {args[0]!r}, and {v['from']} is of {s.method!r}; leave the method out")
    s = s if v["seed"] is None else replace(s, seed=v["seed"])
    return start(s, Path(v["out"]) if v["out"] else default_out(s), v["dry-run"])


def default_out(s: Settings) -> Path:
    """runs/<task>-<method>-<model>-s<seed>, with separators taken out of the names."""
    task, model = (x.replace(":", "-").strip("/.").replace("/", "-") for x in (s.task, s.model))
    return Path("runs") / f"{task}-{s.method}-{model}-s{s.seed}"


def start(s: Settings, out: Path, dry_run: bool) -> int:
    """Run in the foreground with progress, then print what came of it."""
    from equipoise.cli import show
    from equipoise.record.folder import Folder

    Folder(out).free()
    if dry_run:
        from equipoise.job.job import prepare

        show.plan(replace(prepare(replace(s, cluster=None)), settings=s), out)  # nothing is started for it
        return 0
    return follow(s, out)


def follow(s: Settings, out: Path) -> int:
    """Run, or go on, under the eyes of a user; returns the exit status. Ctrl-C anywhere says how to go on."""
    from equipoise.cli import show
    from equipoise.job.job import run_job
    from equipoise.record.folder import Folder
    from equipoise.report import report_run

    with show.Board(sys.stderr) as board:
        board.say(f"run directory: {out}")
        try:
            run_job(s.json(), out, board.hear)
        except KeyboardInterrupt:
            if (out / "run.toml").exists():
                board.say(f"stopped at once; go on with: equipoise resume {out}")
            raise
    report_run(out)
    show.outcome(out)
    return 0 if Folder(out).finished else EXIT_INTERRUPTED
