"""Whole runs on a cluster: the local engine's run bit by bit; killed in any place, the same run in the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from processes import descendants, marked, running, strike, until
from safetensors.numpy import load_file

from equipoise.cli import EXIT_INTERRUPTED, main
from equipoise.errors import PeerLost
from equipoise.job.job import run_job
from equipoise.record.folder import Folder

pytestmark = pytest.mark.usefixtures("connected")

SPEC: Mapping[str, Any] = {
    "method": "grpo",
    "task": "addition",
    "model": "tiny",
    "arguments": {"prompts": 4, "samples": 4, "kl": 0.1},
    "knobs": {"difficulty": 2},
    "budget": {"generated_tokens": 2500},
    "eval": {"points": 2, "items": 4, "samples": 2},
    "test": {"items": 4, "samples": 2, "start": False},
    "preflight": False,
    "threads": 1,
    "checkpoint_s": 0.0,
}
DEADLINE_S = 300.0  # a slow machine is no fault
TWO = {"learners": 2, "deadline_s": DEADLINE_S}


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local engine's run."""
    return trained(tmp_path_factory.mktemp("runs") / "here")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two learners and a sampler, undisturbed."""
    return trained(tmp_path_factory.mktemp("runs") / "two", cluster=TWO)


def trained(out: Path, report: Callable[[Mapping[str, Any]], None] = lambda event: None, **changes: Any) -> Path:
    run_job({**SPEC, **changes}, out, report)
    assert Folder(out).finished
    return out


def assert_same(a: Path, b: Path) -> None:
    """Metrics, rollouts and weights, bit by bit."""
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    names = sorted(p.name for p in (a / "rollouts").iterdir())
    assert names == sorted(p.name for p in (b / "rollouts").iterdir())
    for name in names:
        assert pq.read_table(a / "rollouts" / name).equals(pq.read_table(b / "rollouts" / name)), name
    weights = "model/model.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


def test_one_learner_and_one_sampler_are_the_local_run(here: Path, tmp_path: Path) -> None:
    there = trained(tmp_path / "there", cluster={"learners": 1, "samplers": 1, "deadline_s": DEADLINE_S})
    assert_same(here, there)
    finals = [json.loads((run / "final.json").read_text()) for run in (here, there)]
    for final in finals:
        final["spent"].pop("seconds"), final["spent_on"].pop("clock", None), final["spent_on"].pop("total", None)
    assert finals[0] == finals[1]
    assert Folder(there).read_toml("run.toml")["cluster"]["samplers"] == 1


def test_a_killed_sampler_and_a_killed_learner_change_nothing(two: Path, tmp_path: Path) -> None:
    """Each is killed in the middle of its work; the run goes on by itself from its last checkpoint."""
    said: list[str] = []
    victims = {2: "Sampler.sample", 4: "Learner.call"}
    struck: list[threading.Thread] = []

    def report(event: Mapping[str, Any]) -> None:
        said.append(str(event.get("text", "")))
        if event["event"] == "step" and (what := victims.pop(event["step"], None)):
            struck.append(threading.Thread(target=strike, args=(what,)))
            struck[-1].start()

    run = trained(tmp_path / "run", report, cluster={**TWO, "retries": 2})
    for thread in struck:
        thread.join(100)
    assert len(struck) == 2
    assert_same(two, run)
    lost = [line for line in said if "going on from the last checkpoint" in line]
    assert len(lost) == 2 and "sampler 0 died" in lost[0] and "learner" in lost[1] and "(retry 2 of 2)" in lost[1]
    spent = [json.loads((r / "final.json").read_text())["spent_on"] for r in (two, run)]
    assert spent[0]["sampling"] == spent[1]["sampling"] and spent[0]["training"] == spent[1]["training"]
    assert "lost" in spent[1] and spent[1]["lost"]["generated_tokens"] > 0


@pytest.mark.clocked
def test_who_is_silent_is_named(tmp_path: Path) -> None:
    """A stopped learner: its deadline passes, the other one is not blamed, and nothing is left of either."""
    threads: list[threading.Thread] = []

    def report(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 1:
            threads.append(threading.Thread(target=strike, args=("Learner.call", signal.SIGSTOP)))
            threads[-1].start()

    with pytest.raises(PeerLost, match=r"no answer within 15 s from learner \d; go on with: equipoise resume"):
        trained(tmp_path / "run", report, cluster={"learners": 2, "deadline_s": 15.0, "retries": 0})


@pytest.mark.clocked
@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_and_is_resumed(here: Path, tmp_path: Path) -> None:
    """kill -9 of the process that runs the job, which started a cluster of its own: all is gone within 30 s."""
    out = tmp_path / "run"
    with started(out) as (driver, mark):
        until(lambda: Folder(out).lines("metrics.jsonl")[2:], DEADLINE_S)
        family = {*marked(mark), *descendants(driver.pid)}  # a process may write over the beginning of its environment
        assert len(family) > 5
        driver.kill()
        driver.wait(30)
        end = time.monotonic() + 30
        while (left := [pid for pid in {*family, *marked(mark)} if running(pid)]) and time.monotonic() < end:
            time.sleep(0.2)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
    assert not Folder(out).finished
    assert main(["resume", str(out)]) == 0
    assert_same(here, out)
    assert json.loads((out / "final.json").read_text())["spent_on"]["lost"]["flops"] > 0


@pytest.mark.slow
def test_ctrl_c_ends_a_run_between_steps(here: Path, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches every process of its group; the step is finished, and the run says how to go on."""
    out = tmp_path / "run"
    with started(out) as (driver, mark):
        until(lambda: Folder(out).lines("metrics.jsonl")[2:], DEADLINE_S)
        family = {*marked(mark), *descendants(driver.pid)}
        os.killpg(driver.pid, signal.SIGINT)
        said = driver.communicate(timeout=DEADLINE_S)[0]
        until(lambda: [] if any(map(running, {*family, *marked(mark)})) else [True], 30)
    assert driver.returncode == EXIT_INTERRUPTED and "stopping after this step" in said
    assert f"equipoise resume {out}" in " ".join(said.split()) and "Traceback" not in said
    done = Folder(out).lines("metrics.jsonl")
    assert 3 <= len(done) < len(Folder(here).lines("metrics.jsonl"))
    assert done == Folder(here).lines("metrics.jsonl")[: len(done)]


STARTED = """
import sys, json
from pathlib import Path
from equipoise.cli.train import follow
from equipoise.job.settings import settings

sys.exit(follow(settings(json.loads(sys.argv[1])), Path(sys.argv[2])))
"""


@contextlib.contextmanager
def started(out: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The run in a process of its own with a cluster of its own; and what the environment of all of them has."""
    spec = {**SPEC, "cluster": {"deadline_s": DEADLINE_S}}
    mark = f"run-{os.getpid()}-{out.parent.name}"
    environment = {**os.environ, "EQUIPOISE_TEST_MARK": mark}
    driver = subprocess.Popen(
        [sys.executable, "-c", STARTED, json.dumps(spec), str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    mark = f"EQUIPOISE_TEST_MARK={mark}"
    try:
        yield driver, mark
    finally:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("cluster", [None, {"learners": 1}], ids=["local", "one"])
def test_a_run_of_two_learners_goes_on_elsewhere(cluster: Any, two: Path, tmp_path: Path) -> None:
    """Its next-to-last checkpoint, resumed on fewer ranks: refused unless it is allowed, then nearly the same run."""
    run = cut_short(two, tmp_path / "run")
    flags = ["--engine", "ray", "--learners", "1"] if cluster else ["--engine", "local"]
    assert main(["resume", str(run), *flags]) != 0
    assert main(["resume", str(run), *flags, "--allow", "world"]) == 0
    assert_close(two, run)


def test_a_local_run_goes_on_with_two_learners(here: Path, tmp_path: Path) -> None:
    run = cut_short(here, tmp_path / "run")
    assert main(["resume", str(run), "--engine", "ray", "--learners", "2", "--allow", "world"]) == 0
    assert_close(here, run)


def cut_short(run: Path, copy: Path) -> Path:
    """As if it had been killed a step before its end."""
    shutil.copytree(run, copy)
    (copy / "final.json").unlink()
    shutil.rmtree(copy / "model")
    shutil.rmtree(sorted((copy / "checkpoints").iterdir())[-1])
    return copy


def assert_close(a: Path, b: Path) -> None:
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (a, b))
    assert max(float(np.abs(mine[k] - theirs[k]).max()) for k in mine) < 1e-5
