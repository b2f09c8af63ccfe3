"""The loop on the enumerable engine: learning, resuming, recording, stopping."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import toy
from equipoise import recipes
from equipoise.budget import Budget
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import Diverged, RecordError, VerifierFailure
from equipoise.record import checkpoint, rollouts
from equipoise.record.folder import Folder
from equipoise.record.metrics import describe
from equipoise.run.loop import Loop
from equipoise.types import Group, ModelInfo, Prompt, Response, Score

BUDGET = Budget(flops=12_000.0)
METHODS = recipes.names()


def weights(engine: object) -> torch.Tensor:
    assert isinstance(engine, TabularEngine)
    return engine.weights["logits"].detach().clone()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in toy.LABEL_FREE + toy.WITH_CONTEXT])
def test_every_method_beats_its_shuffled_control(method: str, tmp_path: Path) -> None:
    """Learning: exact pass rate over 3 seeds, more than 3 standard errors above the same method on shuffled rewards."""
    budget, rates = Budget(flops=60_000.0), {}
    mine = toy.TASKS.get(method, toy.TASK)
    for name, task in (("real", mine), ("control", toy.shuffled(mine))):
        rates[name] = []
        for seed in range(3):
            loop = toy.loop(tmp_path / f"{name}{seed}", method, budget, seed, task)
            loop.run()
            rates[name].append(toy.success(toy.tested(loop)))
    gap = np.mean(rates["real"]) - np.mean(rates["control"])
    error = math.sqrt((np.var(rates["real"], ddof=1) + np.var(rates["control"], ddof=1)) / 3)
    assert gap > 3 * error and gap > 0.02, rates


class Killed(BaseException):
    """Stands for kill -9 at this instant: no handler of the loop sees it."""


@pytest.mark.parametrize("method", METHODS)
def test_killed_anywhere_and_resumed_is_bit_identical(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy.loop(tmp_path / "whole", method, BUDGET, checkpoint_s=0.0)
    whole.run()
    steps = whole.at.step
    for n, where in enumerate(("sample", "backward", "append", "write")):
        path = tmp_path / where
        first = toy.loop(path, method, BUDGET, checkpoint_s=0.0 if n % 2 else 1e9)
        _kill(monkeypatch, first, where, after=1 if where in ("sample", "backward") else max(2, steps // 2))
        with pytest.raises(Killed):
            first.run()
        monkeypatch.undo()
        again = Loop(
            first.recipe,
            toy.engine(first.recipe.needs, **toy.ENGINES.get(method, {})),
            dataclasses.replace(first.ledger, by={}),
            Folder(path),
            0,
        )
        again.restore()
        again.run()
        assert torch.equal(weights(whole.engine), weights(again.engine))
        assert (path / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
        assert _rollouts(path) == _rollouts(tmp_path / "whole")


def _kill(monkeypatch: pytest.MonkeyPatch, loop: Loop, where: str, after: int) -> None:
    target, name = {
        "sample": (loop.engine, "sample"),
        "backward": (loop.engine, "backward"),
        "append": (loop.folder, "append"),
        "write": (rollouts, "write"),
    }[where]
    real, calls = getattr(target, name), [0]

    def dying(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] > after:
            raise Killed
        return real(*args, **kwargs)

    if where == "sample" and "generated_tokens" not in loop.recipe.spends:
        target, name, real = loop.engine, "encode_reply", loop.engine.encode_reply
    monkeypatch.setattr(target, name, dying)


def _rollouts(path: Path) -> list[dict[str, object]]:
    return [row for p in sorted((path / "rollouts").glob("*.parquet")) for row in pq.read_table(p).to_pylist()]


def test_metrics_can_be_recomputed_from_the_stored_rollouts(tmp_path: Path) -> None:
    """Invariant 6. Loss, gradient norm, learning rate and the objective's terms are the learner's, not the data's."""
    for method in METHODS:
        toy.loop(tmp_path / method, method, BUDGET).run()
        lines = {line["step"]: line for line in Folder(tmp_path / method).lines("metrics.jsonl")}
        for path in sorted((tmp_path / method / "rollouts").glob("*.parquet")):
            step = int(path.stem.split("-")[1])
            alone = tmp_path / "one" / method / str(step)
            alone.mkdir(parents=True)
            (alone / path.name).symlink_to(path)
            again = describe(rollouts.read(alone))
            assert again and {k: lines[step][k] for k in again} == pytest.approx(again)


def test_every_response_is_recorded_also_the_dropped(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "dapo", BUDGET)
    loop.run()
    found = _rollouts(tmp_path / "run")
    assert sum(len(r["ids"]) for r in found) == loop.engine.spent().generated_tokens  # type: ignore[arg-type]
    assert {r["use"] for r in found} == {"trained", "dropped"}


def test_groups_survive_the_round_trip_through_parquet(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "ppo", Budget(flops=10_000.0))
    loop.run()
    for g in rollouts.read(tmp_path / "run" / "rollouts"):
        for r in g.responses:
            assert r.ids.dtype == np.int64 and r.logprobs is not None and r.logprobs.dtype == np.float32
        assert {"advantage", "value", "return", "old", "logp"} <= g.notes.keys()


def test_all_of_a_prompt_and_a_score_is_recorded_and_read_back(tmp_path: Path) -> None:
    meta = {"difficulty": 3, "tags": ["a", "b"], "nested": {"x": None}, "array": np.arange(2), "share": np.float32(0.5)}
    score = Score(0.0, "error", np.array([0.5, -1.0], dtype=np.float32), {"a": 1.0}, "7", "it broke: \u00e9")
    group = toy.group([0.0, 1.0])
    group = dataclasses.replace(
        group, prompt=dataclasses.replace(group.prompt, meta=meta, answer=7), scores=(score, group.scores[1])
    )
    rollouts.write(tmp_path, 1, list(rollouts.rows([(group, "trained")], 1, "train", 0, None)))
    (again,) = rollouts.read(tmp_path)
    assert again.prompt.meta == {**meta, "array": [0, 1], "share": 0.5} and again.prompt.answer == 7
    first, second = again.scores
    assert first.steps is not None and score.steps is not None and np.array_equal(first.steps, score.steps)
    assert dataclasses.replace(first, steps=None) == dataclasses.replace(score, steps=None)
    assert second == group.scores[1]


def test_rollouts_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    rollouts.write(tmp_path, 1, list(rollouts.rows([(toy.group([0.0, 1.0]), "trained")], 1, "train", 0, None)))
    path = tmp_path / "step-0000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["meta", "message", "steps"]), path)
    (again,) = rollouts.read(tmp_path)
    assert again.scores == toy.group([0.0, 1.0]).scores and again.prompt.meta == {}


def test_what_is_drawn_beside_an_exhausted_stream_is_recorded_as_unused(tmp_path: Path) -> None:
    """Labels for three steps: in the fourth, demonstrations are out and rollouts, drawn beside them, go unused."""
    loop = toy.loop(tmp_path / "run", "mix", Budget(labels=18, generated_tokens=10_000))
    assert loop.run() == "budget spent"
    found = _rollouts(tmp_path / "run")
    assert {r["use"] for r in found if r["step"] == 4} == {"unused"}
    assert {r["use"] for r in found if r["step"] != 4} <= {"trained", "silent"}
    assert sum(len(r["ids"]) for r in found if r["origin"] == "policy") == loop.engine.spent().generated_tokens  # type: ignore[arg-type]
    unused = sum(len(r["ids"]) for r in found if r["use"] == "unused")  # type: ignore[arg-type]
    assert loop.ledger.by["unused"].generated_tokens == unused > 0
    last = Folder(tmp_path / "run").lines("metrics.jsonl")[-1]
    assert last["step"] == 4 and "reward" in last and "lr" not in last


def test_resuming_needs_an_undamaged_checkpoint(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, checkpoint_s=0.0)
    loop.run()
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(kept) == checkpoint.KEEP
    tensors = kept[1] / "engine" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    assert checkpoint.newest(tmp_path / "run" / "checkpoints") == kept[0]
    (kept[0] / "checksums.json").unlink()
    with pytest.raises(RecordError, match="truncated or altered"):
        loop.restore()


def test_nan_stops_the_run_says_where_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, checkpoint_s=0.0)

    def poison(event: object) -> None:
        if loop.at.step == 3:
            with torch.no_grad():
                loop.engine.weights["logits"][:] = float("nan")  # type: ignore[attr-defined]

    loop.report = poison
    loop.checkpoint_s = 1e9
    with pytest.raises(Diverged, match=r"step 4: .*p"):
        loop.run()
    loop.restore()
    assert torch.isfinite(weights(loop.engine)).all()


@pytest.mark.parametrize(
    "dtype, off, alarmed",
    [("float64", 0.0, False), ("float64", 0.02, True), ("bfloat16", 0.06, False), ("bfloat16", 0.1, True)],
)
def test_a_sampler_that_is_off_raises_an_alarm_by_how_products_round(
    dtype: str, off: float, alarmed: bool, tmp_path: Path
) -> None:
    class Off(TabularEngine):
        @property
        def info(self) -> ModelInfo:
            return dataclasses.replace(super().info, dtype=dtype)

        def sample(self, *args: Any, **kwargs: Any) -> list[Group]:
            groups = super().sample(*args, **kwargs)
            return [dataclasses.replace(g, responses=tuple(_shifted(r, off) for r in g.responses)) for g in groups]

    heard: list[str] = []
    loop = toy.loop(tmp_path / "run", "reinforce", Budget(flops=3_000.0))
    loop.engine.__class__ = Off
    loop.report = lambda event: heard.append(event["text"]) if event["event"] == "alarm" else None
    loop.run()
    assert bool(heard) == alarmed
    most = {"float64": 0.01, "bfloat16": 0.08}[dtype]
    assert all(f"differ by {off:g} nats" in text and f"in {dtype} expected at most {most:g}" in text for text in heard)


def _shifted(response: Response, off: float) -> Response:
    assert response.logprobs is not None
    return dataclasses.replace(response, logprobs=response.logprobs + np.float32(off))


def test_failed_verdicts_stop_the_run_and_are_no_reward_of_zero(tmp_path: Path) -> None:
    def flaky(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        scores = toy.verify(prompts, texts)
        return [Score(0.0, "timeout", message="too slow") if i % 4 == 0 else s for i, s in enumerate(scores)]

    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, task=dataclasses.replace(toy.TASK, verify=flaky))
    with pytest.raises(VerifierFailure, match="too slow"):
        loop.run()


def test_a_rare_failure_leaves_the_gradient_and_stays_charged(tmp_path: Path) -> None:
    calls = [0]

    def once(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        calls[0] += 1
        scores = toy.verify(prompts, texts)
        return [Score(0.0, "error", message="x"), *scores[1:]] if calls[0] == 1 else scores

    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, task=dataclasses.replace(toy.TASK, verify=once))
    loop.run()
    first = [r for r in _rollouts(tmp_path / "run") if r["step"] == 1]
    assert first[0]["status"] == "error" and not any(first[0]["trained"])  # type: ignore[call-overload]
    assert set(first[0]["advantage"]) <= {0.0}  # type: ignore[call-overload]


def test_the_first_ctrl_c_ends_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET)
    loop.stop = lambda: loop.at.step >= 2
    assert loop.run() == "interrupted"
    state = checkpoint.read_state(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert state["step"] == 2
    loop.stop = lambda: False
    assert loop.run() == "budget spent"


def test_an_existing_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text("")
    with pytest.raises(RecordError, match="equipoise resume"):
        Folder(tmp_path / "run").create()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RecordError, match="not empty"):
        Folder(tmp_path / "other").create()


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    one, two = Folder(tmp_path / "run"), Folder(tmp_path / "run")
    with one.locked(), pytest.raises(RecordError, match="another process"), two.locked():
        pass


def test_a_full_disk_stops_with_what_was_there_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = toy.loop(tmp_path / "run", "grpo", BUDGET, checkpoint_s=0.0)
    real, calls = TabularEngine.save, [0]

    def full(self: TabularEngine, folder: Path) -> None:
        calls[0] += 1
        if calls[0] > 3:
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(TabularEngine, "save", full)
    with pytest.raises(RecordError, match="free some space, then resume"):
        loop.run()
    assert checkpoint.damage(checkpoint.newest(tmp_path / "run" / "checkpoints")) is None
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))


def test_lines_are_whole_json_and_one_a_step(tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "tulu3", BUDGET)
    loop.run()
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(loop.at.step + 1))
    assert list(dict.fromkeys(x["stage"] for x in lines[1:])) == ["sft", "draw", "dpo", "rlvr"]
