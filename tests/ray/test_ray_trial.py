"""A trial whose jobs are tasks of a cluster ends as one in processes of this machine, also where jobs fail."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import until
from rich.console import Console

from equipoise.trial import ArmSpec, TrialResult, trial
from equipoise.trial.runner import on_ray

pytestmark = pytest.mark.usefixtures("connected")


def run(out: Path, methods: list[str], **more: Any) -> TrialResult:
    """A trial of synthetic runs, one seed."""
    console = Console(file=io.StringIO(), width=200)
    arms, budget = [ArmSpec(m) for m in methods], {"flops": 4e12}
    return trial(arms, "addition", "tiny", [0], budget, out, 2, run_job="synthetic_runs:job", console=console, **more)


def test_results_are_those_of_worker_processes(tmp_path: Path) -> None:
    methods = ["grpo", "raises", "dies", "forgets", "dpo"]
    found = [run(tmp_path / "here", methods), run(tmp_path / "there", methods, place=on_ray(None))]
    for name in ("arms", "verdicts"):
        assert found[0].result[name] == found[1].result[name]
    failed = [{f["method"]: f["reason"] for f in trial.result["failed"]} for trial in found]
    assert failed[0].keys() == failed[1].keys() == {"raises", "dies", "forgets"}
    assert failed[0]["raises"] == failed[1]["raises"] == "ValueError: no such luck"
    assert "its process was lost" in failed[1]["dies"]
    assert "ended without a final result" in failed[1]["forgets"]
    assert "no such luck" in (tmp_path / "there" / "errors" / "raises-s0.txt").read_text()
    told = [(tmp_path / t / "grpo-s0" / "threads.txt").read_text().split()[:2] for t in ("here", "there")]
    assert told[0] == told[1]


def test_a_silent_job_fails(tmp_path: Path) -> None:
    found = run(tmp_path / "out", ["hangs", "sft"], place=on_ray(None), silence_s=5.0)
    [failure] = found.result["failed"]
    assert failure["method"] == "hangs" and "said nothing for 5 s" in failure["reason"]
    assert [arm["method"] for arm in found.result["arms"]] == ["sft", "start"]


def test_ctrl_c_lets_jobs_finish_their_step(tmp_path: Path) -> None:
    patient = tmp_path / "out" / "patient-s0"

    def interrupt() -> None:
        until(lambda: list(patient.glob("started")), 300)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    found = run(tmp_path / "out", ["patient", "sft"], place=on_ray(None))
    thread.join()
    assert found.interrupted and found.result["failed"] == []
    assert (patient / "told.txt").read_text() == "1"
