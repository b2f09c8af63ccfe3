"""For every test: no network, and under CI a skipped test is a failure."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: children would ignore Ctrl-C too
    with contextlib.suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI everything must run: what a test needs is installed by `make test`, or the test must go."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and not hasattr(session.config, "workerinput"):
        skipped = reporter.stats.get("skipped", [])
        if skipped:
            reporter.write_line(f"{len(skipped)} skipped under CI, which counts as failed: {skipped[0].nodeid}, ...")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
