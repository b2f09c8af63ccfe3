"""equipoise report DIR: the HTML report and the PNG of the main plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipoise.cli import options
from equipoise.cli.options import Flag
from equipoise.errors import RecordError


def main(args: Sequence[str]) -> int:
    flags = [Flag("dir", str, help="a run directory, or a trial's", positional=True)]
    v = options.parse(
        "equipoise report", "Write report.html, which loads nothing from outside, and a PNG.", flags, args
    )
    folder = Path(v["dir"])
    from equipoise.report import report_run, report_trial

    if (folder / "trial.json").exists():
        print(report_trial(folder))
    elif (folder / "run.toml").exists():
        print(report_run(folder))
    else:
        raise RecordError(f"{folder} is neither a run nor a trial: it has no run.toml and no trial.json")
    return 0
