"""Trials with real worker processes and jobs that write synthetic runs (``synthetic_runs.job``)."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from equipoise.errors import ArgumentError, RecordError, UnknownName
from equipoise.record.folder import Folder
from equipoise.trial import ArmSpec, TrialResult, is_trial, resume, trial
from equipoise.trial.result import conclude
from synthetic_runs import evaluation_rows, write_rows, write_run, write_start

JOB = "synthetic_runs:job"


def run(out: Path, methods: list[str], seeds: int = 2, **more: Any) -> tuple[TrialResult, str]:
    """A trial of synthetic runs and what it printed."""
    text = io.StringIO()
    found = trial(
        [ArmSpec(m) for m in methods],
        "addition",
        "tiny",
        range(seeds),
        {"flops": 4e12},
        out,
        run_job=JOB,
        console=Console(file=text, width=200),
        **more,
    )
    return found, text.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialResult, str, Path]:
    """Two sound arms and three that fail in different ways, over three seeds."""
    out = tmp_path_factory.mktemp("trial") / "out"
    found, text = run(out, ["grpo", "raises", "dies", "forgets", "dpo"], 3)
    return found, text, out


def test_result_has_exactly_the_contract(mixed: tuple[TrialResult, str, Path]) -> None:
    found, _, out = mixed
    result = json.loads((out / "result.json").read_text())
    assert result == found.result and not found.interrupted and is_trial(out)
    assert set(result) == {"task", "model", "budget", "arms", "verdicts", "failed"}
    assert [arm["method"] for arm in result["arms"]] == ["grpo", "dpo", "start"]
    assert all(set(arm) == {"method", "seeds", "metrics", "spent"} for arm in result["arms"])
    assert [arm["seeds"] for arm in result["arms"]] == [[0, 1, 2], [0, 1, 2], []]
    assert {"pass@1", "pass@4", "maj@4", "reward", "length", "truncated", "parts/sum"} == set(
        result["arms"][0]["metrics"]
    ) - {"parts/format"}
    assert set(result["arms"][0]["metrics"]["pass@1"]) == {"value", "low", "high"}
    assert result["arms"][0]["spent"]["flops"] == pytest.approx(4e12)
    assert all(
        set(v) == {"a", "b", "metric", "estimate", "low", "high", "verdict"} and v["metric"] == "pass@1"
        for v in result["verdicts"]
    )
    assert [(v["a"], v["b"]) for v in result["verdicts"]] == [("grpo", "dpo"), ("grpo", "start"), ("dpo", "start")]
    assert result["verdicts"][1]["verdict"].startswith("grpo beats start by ")


def test_failed_arms_are_reported_and_the_others_finish(mixed: tuple[TrialResult, str, Path]) -> None:
    found, text, out = mixed
    failed = {(f["method"], f["seed"]): f["reason"] for f in found.result["failed"]}
    assert set(failed) == {(m, s) for m in ("raises", "dies", "forgets") for s in range(3)}
    assert failed["raises", 0] == "ValueError: no such luck"
    assert "killed by SIGKILL" in failed["dies", 2]
    assert "ended without a final result" in failed["forgets", 1]
    assert "no such luck" in (out / "errors" / "raises-s1.txt").read_text()
    assert "Traceback" in (out / "errors" / "raises-s1.txt").read_text()
    assert "grpo − start" in text and "beats" in text and "no such luck" in text


def test_workers_are_started_once_with_their_share_of_the_cores(mixed: tuple[TrialResult, str, Path]) -> None:
    _, _, out = mixed
    told = [(out / f"{m}-s{s}" / "threads.txt").read_text().split() for m in ("grpo", "dpo") for s in range(3)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert {(a, b) for a, b, _ in told} == {(str(max(1, cores // 2)),) * 2}
    assert len({pid for *_, pid in told}) <= 2 + 3  # two workers, and one in place of each that died


def test_arms_values_are_those_of_the_evaluations(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"grpo-s{seed}", "grpo", seed)
    write_start(tmp_path / "start")
    result = conclude({"task": "t", "model": "m", "budget": {}, "arms": ["grpo"], "seeds": [0, 1]}, tmp_path, [])
    rates = [sum(row["right"] for row in evaluation_rows(1.6, s)) / 240 for s in (0, 1)]
    start = sum(row["right"] for row in evaluation_rows(0.0, 0)) / 240
    by_name = {arm["method"]: arm["metrics"]["pass@1"] for arm in result["arms"]}
    assert by_name["grpo"]["value"] == pytest.approx(sum(rates) / 2)
    assert by_name["start"]["value"] == pytest.approx(start)
    assert result["verdicts"][0]["estimate"] == pytest.approx(sum(rates) / 2 - start)


def test_arms_are_compared_on_the_items_they_share(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"grpo-s{seed}", "grpo", seed)
    rows = [row for row in evaluation_rows(1.6, 1) if row["item"] != "item-003"]
    for row in rows:  # a verifier that failed on every sample of an item leaves it without a value
        if row["item"] == "item-005":
            row["status"] = "timeout"
    write_rows(rows, tmp_path / "grpo-s1" / "evaluation" / "test.parquet")
    settings = {"task": "t", "model": "m", "budget": {}, "arms": ["grpo"], "seeds": [0, 1]}
    write_start(tmp_path / "start")
    arm, start = conclude(settings, tmp_path, [])["arms"]
    kept = {f"item-{i:03d}" for i in range(60)} - {"item-003", "item-005"}
    rights = [[r["right"] for r in evaluation_rows(1.6, s) if r["item"] in kept] for s in (0, 1)]
    assert arm["metrics"]["pass@1"]["value"] == pytest.approx(sum(map(sum, rights)) / (2 * 58 * 4))
    before = [r["right"] for r in evaluation_rows(0.0, 0) if r["item"] in kept]
    assert start["metrics"]["pass@1"]["value"] == pytest.approx(sum(before) / (58 * 4))
    with pytest.raises(UnknownName, match="pass@1"):
        conclude(settings, tmp_path, [], metric="pass1")


def test_held_out_loss_is_compared_where_there_is_no_verifier(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / f"sft-s{seed}", "sft", seed)
        _score_replies(tmp_path / f"sft-s{seed}", 1.0 + 0.001 * seed)
    write_start(tmp_path / "start")
    _score_replies(tmp_path / "start", 2.0)
    result = conclude({"task": "t", "model": "m", "budget": {}, "arms": ["sft"], "seeds": [0, 1, 2]}, tmp_path, [])
    assert result["arms"][1]["metrics"]["loss"]["value"] == pytest.approx(2.0)
    [v] = result["verdicts"]
    assert v["metric"] == "loss" and v["verdict"].startswith("sft beats start by 0.999")


def _score_replies(folder: Path, loss: float) -> None:
    """Make a run's test one of held-out replies with the given loss."""
    final = json.loads((folder / "final.json").read_text())
    final["test"]["metrics"] = {"loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1}}
    (folder / "final.json").write_text(json.dumps(final))
    rows = evaluation_rows(0.0, 0, samples=1)
    write_rows([{**row, "value": -loss, "right": True} for row in rows], folder / "evaluation" / "test.parquet")


def test_resume_runs_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, ["grpo", "sft"])
    before = {p: p.stat().st_mtime_ns for p in out.glob("*-s*/final.json")}
    (out / "sft-s1" / "final.json").unlink()
    first = (out / "result.json").read_text()
    again = resume(out, 1, console=Console(file=io.StringIO()))
    after = {p: p.stat().st_mtime_ns for p in out.glob("*-s*/final.json")}
    assert [p.parent.name for p in before if before[p] != after[p]] == ["sft-s1"]
    assert json.loads(first) == again.result  # the synthetic run is the same every time


def test_a_directory_holds_one_trial(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, ["grpo"])
    with pytest.raises(RecordError, match="arms differ"):
        run(out, ["dpo"])
    with Folder(out).locked(), pytest.raises(RecordError, match="written by another process"):
        resume(out, console=Console(file=io.StringIO()))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(RecordError, match="not empty"):
        run(tmp_path / "other", ["grpo"])
    with pytest.raises(RecordError, match=r"no trial\.json"):
        resume(tmp_path / "other")


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="names of their own"):
        run(tmp_path / "a", ["grpo", "grpo"])
    with pytest.raises(ArgumentError, match="names of their own"):
        run(tmp_path / "a", ["../grpo"])
    with pytest.raises(ArgumentError, match="--jobs is 0"):
        run(tmp_path / "a", ["grpo"], jobs=0)
    assert not (tmp_path / "a").exists()


def test_a_silent_job_fails(tmp_path: Path) -> None:
    found, _ = run(tmp_path / "out", ["hangs", "sft"], 1, silence_s=4.0)
    [failure] = found.result["failed"]
    assert failure["method"] == "hangs" and "said nothing for 4 s" in failure["reason"]
    assert [arm["method"] for arm in found.result["arms"]] == ["sft", "start"]


SCRIPT = """
import sys
from pathlib import Path
from equipoise.trial import ArmSpec, trial
if __name__ == "__main__":
    sys.path.insert(0, {tests!r})
    trial([ArmSpec("patient"), ArmSpec("sft")], "addition", "tiny", [0], {{"flops": 1.0}}, Path({out!r}), 1,
          run_job="synthetic_runs:job")
"""


def test_ctrl_c_lets_jobs_finish_their_step_and_resume_goes_on(tmp_path: Path) -> None:
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out)))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        _until((out / "patient-s0" / "started").exists)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert (out / "patient-s0" / "told.txt").read_text() == "1"  # once, not once from each side
    assert "patient-s0: interrupted" in said and "equipoise resume" in said
    assert not (out / "sft-s0" / "final.json").exists()
    assert json.loads((out / "result.json").read_text())["failed"] == []


def _until(condition: Any, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_the_console_shows_bars_in_a_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    trial(
        [ArmSpec("slow")],
        "addition",
        "tiny",
        [0],
        {"flops": 4e12},
        tmp_path / "out",
        run_job=JOB,
        console=Console(file=text, force_terminal=True, width=120),
    )
    assert "all jobs" in text.getvalue() and "reward 0.5" in text.getvalue()


def test_an_interrupted_trial_exits_130_and_goes_on_when_resumed(tmp_path: Path) -> None:
    """The command itself, on the shipped model."""
    out = tmp_path / "out"
    options = "--task addition --model tiny --seeds 1 --jobs 1 --budget.generated-tokens 8k --prompts 2"
    small = ["--eval.points", "0", "--test.items", "2", "--test.samples", "1", "--no-preflight"]
    sizes = [x for o in options.split() for x in ([f"--grpo.{o[2:]}"] if o == "--prompts" else [o])]
    command = [sys.executable, "-m", "equipoise.cli", "trial", "grpo", *sizes, *small, "--out", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True) as process:
        _until(lambda: (out / "grpo-s0" / "metrics.jsonl").exists())
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "grpo-s0: interrupted" in said and f"equipoise resume {out}" in said.replace("\n", "")
    assert not (out / "grpo-s0" / "final.json").exists()
    again = [sys.executable, "-m", "equipoise.cli", "resume", str(out), "--jobs", "1"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "grpo-s0" / "final.json").exists()
