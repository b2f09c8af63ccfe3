"""Reports: one HTML page that loads nothing from outside, and one PNG, for a run or a trial.

Everything that a model, a data set or a user wrote is stripped of control characters (``folders.visible``) and escaped
by the templates; the page's policy forbids it to load anything.
"""

from __future__ import annotations

from pathlib import Path


def report_run(folder: Path) -> Path:
    """Write ``report.html`` and ``report.png`` into a run directory, finished or not; returns the page's path.

    Raises RecordError when it is no run directory or a file in it is damaged."""
    from equipoise.report.page import run_page

    return run_page(Path(folder))


def report_trial(folder: Path) -> Path:
    """Write ``report.html`` and ``report.png`` into a trial's directory; returns the page's path.

    Raises RecordError when there is no trial with a result, or a file of it is damaged."""
    from equipoise.report.page import trial_page

    return trial_page(Path(folder))


__all__ = ["report_run", "report_trial"]
