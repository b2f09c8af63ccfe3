"""equipoise resume DIR: go on with a run, or a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from equipoise.cli import EXIT_INTERRUPTED, options, train
from equipoise.cli.options import Flag


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("dir", str, help="a run directory, or a trial's", positional=True),
        Flag("jobs", int, 2, "of a trial: processes"),
        Flag("allow", tuple[str, ...], (), "'world': go on under other threads, processes or versions than before"),
        *options.of_engine(None),
    ]
    v = options.parse("equipoise resume", "Go on from the last checkpoint; finished parts are skipped.", flags, args)
    folder = Path(v["dir"])
    from equipoise.trial.runner import is_trial, resume

    if is_trial(folder):
        return conclude(folder, resume(folder, v["jobs"], place=options.place(v)).interrupted)
    from equipoise.cli import show
    from equipoise.job.job import saved

    s = saved(folder)
    if (folder / "final.json").exists():
        print(f"{folder} is finished.")
        show.outcome(folder)
        return 0
    s = replace(s, allow=(*s.allow, *v["allow"]), cluster=options.cluster(v, s.cluster))
    return train.follow(s, folder)


def conclude(folder: Path, interrupted: bool) -> int:
    """Write the reports of a trial and of its runs, and say where the trial's is; returns the exit status."""
    from equipoise.report import report_run, report_trial

    for run in sorted(folder.glob("*-s*/final.json")):
        report_run(run.parent)
    if (folder / "result.json").exists():
        print(f"report: {report_trial(folder)}")
    return EXIT_INTERRUPTED if interrupted else 0
