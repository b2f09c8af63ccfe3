"""Drawing ahead on a cluster: the local engine's run with the same lag, bit by bit, and really at the same time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from processes import strike
from test_ray_job import DEADLINE_S, assert_same, torch_as_it_was, trained  # noqa: F401

import ray
from equipoise import recipes, tasks
from equipoise.budget import Budget, Ledger
from equipoise.engine import ray as cluster
from equipoise.engine.ray import engine as ray_engine
from equipoise.engine.ray import peers
from equipoise.record.folder import Folder
from equipoise.run.loop import Loop

pytestmark = pytest.mark.usefixtures("connected")
ONE = {"deadline_s": DEADLINE_S}


def test_two_steps_ahead_is_the_local_run_also_when_a_sampler_is_killed(tmp_path: Path) -> None:
    here = trained(tmp_path / "here", ahead=2)
    struck: list[threading.Thread] = []

    def report(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            struck.append(threading.Thread(target=strike, args=("Sampler.sample",)))
            struck[-1].start()

    there = trained(tmp_path / "there", report, ahead=2, cluster=ONE)
    struck[0].join(100)
    assert_same(here, there)
    lines = Folder(there).lines("metrics.jsonl")
    ages = [line["staleness_max"] for line in lines if "staleness_max" in line]
    assert ages[:3] == [0.0, 1.0, 2.0] and max(ages) == 2.0


PAUSE_S = 0.6


class SlowLearner(peers.Learner):
    def call(self, name: str, *args: Any) -> Any:
        if name == "backward":
            time.sleep(PAUSE_S)
        return super().call(name, *args)


class SlowSampler(peers.Sampler):
    def sample(self, *args: Any) -> Any:
        time.sleep(PAUSE_S)
        return super().sample(*args)


@pytest.mark.clocked
def test_sampling_and_learning_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both slowed by sleeps: in turns a step takes at least the sum, one step ahead it saves most of one of them."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this file
    monkeypatch.setattr(ray_engine, "Learner", SlowLearner)
    monkeypatch.setattr(cluster, "_sampler", lambda *kind: SlowSampler)
    steps, seconds = 6, {}
    task = tasks.load("addition", difficulty=2)
    made = recipes.build("grpo", task, prompts=2, samples=4)
    for ahead in (0, 1):
        engine = cluster.load("tiny", threads=1, deadline_s=DEADLINE_S)
        folder = Folder(tmp_path / str(ahead))
        folder.create()
        began: list[float] = []
        loop = Loop(
            made,
            engine,
            Ledger(Budget(flops=1e15)),
            folder,
            0,
            ahead=ahead,
            report=lambda event, began=began: began.append(time.monotonic()),
            stop=lambda began=began: len(began) > steps,
        )
        assert loop.run() == "interrupted"
        engine.close()
        seconds[ahead] = (began[-1] - began[1]) / (len(began) - 2)
    assert seconds[0] > 2 * PAUSE_S
    assert seconds[0] - seconds[1] > 0.6 * PAUSE_S
