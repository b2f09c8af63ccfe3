"""Calibration: what a run's timings are taken to say, on run directories whose law is known, and on a real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equipoise.cli import main
from equipoise.errors import ArgumentError, RecordError
from equipoise.plan.calibrate import Fit, Measured, Target, document, fit, measured, predict, read
from equipoise.record import rollouts
from equipoise.record.folder import Folder
from equipoise.types import Group, Prompt, Response, Score

Law = Callable[[int, int, int], tuple[float, float]]  # longest response, generated tokens, tokens learned -> seconds


def known(longest: int, tokens: int, learned: int) -> tuple[float, float]:
    return 0.5 + 0.02 * longest + 0.001 * tokens, 0.25 + 0.004 * learned


def write_run(out: Path, law: Law = known, steps: int = 12, prompts: int = 4, **settings: object) -> Path:
    """A run directory with lengths from a fixed generator, one group in four without gradient, and times by a law."""
    folder, rng = Folder(out), np.random.default_rng(5)
    folder.create()
    folder.write_toml("run.toml", {"method": "grpo", "resolved": {"threads": 1}, **settings})
    folder.append("timings.jsonl", {"step": 0, "seconds": 9.0, "evaluate_s": 9.0})
    for step in range(1, steps + 1):
        lengths = rng.integers(3, 60, (prompts, 3))
        used = [(group(f"p{k}", row.tolist()), "silent" if k == 0 else "trained") for k, row in enumerate(lengths)]
        rollouts.write(out / "rollouts", step, list(rollouts.rows(used, step, "train", 0, None)))
        learned = int(lengths[1:].sum()) + 7 * 3 * (prompts - 1)
        generate_s, train_s = law(int(lengths.max()), int(lengths.sum()), learned)
        line = {"generate_s": generate_s, "train_s": train_s, "score_s": 0.03, "credit_s": 0.01, "record_s": 0.02}
        if step == 1:
            line["generate_s"] += 40.0  # cold
        folder.append("timings.jsonl", {"step": step, "seconds": sum(line.values()), "evaluate_s": 1.0, **line})
    return out


def group(name: str, lengths: list[int]) -> Group:
    made = [
        Response(
            ids=np.ones(n, dtype=np.int64),
            logprobs=np.zeros(n, dtype=np.float32),
            trained=np.ones(n, dtype=bool),
            segment=np.zeros(n, dtype=np.int32),
            text="",
        )
        for n in lengths
    ]
    return Group(Prompt(name, text="?", ids=tuple(range(7))), tuple(made), tuple(Score(0.0) for _ in lengths))


def calibrated(run: Path) -> tuple[Fit, list[Measured]]:
    steps = measured(run)
    return fit(run, steps), steps


def test_fit_finds_the_law(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r"))
    assert len(steps) == 11, "the first step is left out"
    assert found.generate == pytest.approx({"constant_s": 0.5, "token_step_s": 0.02, "token_s": 0.001})
    assert found.learn == pytest.approx({"constant_s": 0.25, "token_s": 0.004})
    assert (found.score_s, found.record_s) == pytest.approx((0.04, 0.02))
    assert found.generate_error < 1e-9
    assert found.learn_error < 1e-9


def test_the_run_itself_is_predicted_exactly(tmp_path: Path) -> None:
    """Also where no law holds: the measured times are replayed."""
    noise = np.random.default_rng(1)
    run = write_run(tmp_path / "r", lambda *_: (float(noise.uniform(1, 3)), float(noise.uniform(1, 2))))
    found, steps = calibrated(run)
    mean = np.mean([s.generate_s + s.learn_s + s.score_s + s.record_s for s in steps])
    assert predict(found, steps, Target()).seconds_a_step == pytest.approx(mean)


def test_two_learners_halve_what_grows_with_tokens(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r"))
    one, two = (predict(found, steps, Target(learners=n)).seconds_a_step for n in (1, 2))
    assert one - two == pytest.approx(0.004 * np.mean([read(s.draw) for s in steps]) / 2)
    slower = predict(found, steps, Target(learners=2, exchange_s=0.5)).seconds_a_step
    assert slower - two == pytest.approx(0.5)


def test_ahead_1_takes_the_larger_side(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r", lambda *_: (2.0, 1.0)))
    assert predict(found, steps, Target(ahead=1)).seconds_a_step == pytest.approx(2.04)  # scored first
    assert predict(found, steps, Target(ahead=1, launch="free")).seconds_a_step == pytest.approx(2.0)
    assert predict(found, steps, Target(ahead=1, cores=1)).seconds_a_step == pytest.approx(3.06)


def test_two_samplers_take_half_of_the_groups_each(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r", lambda longest, tokens, learned: (0.01 * tokens, 1.0)))
    halves = [max(part.tokens for part in s.draw.shares(2)) for s in steps]
    expected = np.mean([0.01 * half + 1.0 + 0.06 for half in halves])
    assert predict(found, steps, Target(samplers=2)).seconds_a_step == pytest.approx(expected)


def test_silent_groups_are_not_learned(tmp_path: Path) -> None:
    _, steps = calibrated(write_run(tmp_path / "r"))
    assert all(s.draw.trained.sum() == 9 and len(s.draw.lengths) == 12 for s in steps)


def test_publication_is_half_the_learners_and_half_the_samplers(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r", lambda *_: (2.0, 1.0)))
    published = replace(found, publish_s=0.8)
    assert predict(published, steps, Target()).seconds_a_step == pytest.approx(3.06 + 0.8)
    assert predict(published, steps, Target(ahead=1)).seconds_a_step == pytest.approx(2.04 + 0.8)
    free = Target(ahead=1, launch="free", publish="background")
    assert predict(published, steps, free).seconds_a_step == pytest.approx(2.0 + 0.4)


def test_publication_is_taken_out_of_the_generation_that_it_lies_in(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    lines = [{**line, "published_s": 0.25} for line in Folder(run).lines("timings.jsonl")]
    (run / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, steps = calibrated(run)
    assert found.publish_s == pytest.approx(0.25)
    assert found.generate["constant_s"] == pytest.approx(0.25), "half a second, less what publication took"
    mean = np.mean([s.generate_s + 0.25 + s.learn_s + s.score_s + s.record_s for s in steps])
    assert predict(found, steps, Target()).seconds_a_step == pytest.approx(mean)


def test_document_is_json(tmp_path: Path) -> None:
    found, steps = calibrated(write_run(tmp_path / "r"))
    target = Target(learners=2, ahead=1, cores=2)
    written = document(found, target, predict(found, steps, target))
    assert json.loads(json.dumps(written)) == written
    assert written["target"]["learners"] == 2
    assert written["predicted"]["staleness"] == 1


def test_runs_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="learners 2; calibration needs 1 learner"):
        measured(write_run(tmp_path / "two", cluster={"learners": 2, "samplers": 1}))
    with pytest.raises(ArgumentError, match="ahead 1; calibration needs"):
        measured(write_run(tmp_path / "ahead", ahead=1))
    with pytest.raises(ArgumentError, match="has 3 steps with timings; calibration needs 4"):
        measured(write_run(tmp_path / "short", steps=3))
    with pytest.raises(RecordError, match="is no run directory"):
        measured(tmp_path / "nothing")
    gone = write_run(tmp_path / "gone")
    next((gone / "rollouts").glob("*5.parquet")).unlink()
    with pytest.raises(RecordError, match="step 5 of"):
        measured(gone)


def test_a_real_run_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train = "train grpo --task addition --model tiny --threads 1 --prompts 2 --samples 2 --eval.points 0 --test.items 2"
    more = f"--test.samples 1 --test.no-start --no-preflight --budget.generated-tokens 700 --out {run}"
    assert main([*train.split(), *more.split()]) == 0
    capsys.readouterr()
    ask = f"plan --from {run} --learners 2 --ahead 1 --cores 2 --json --out {tmp_path / 'p'}"
    assert main(ask.split()) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "p" / "plan.json").read_text())
    assert (tmp_path / "p" / "plan.png").stat().st_size > 1000
    assert said["target"] == {
        "learners": 2, "samplers": 1, "ahead": 1, "cores": 2, "exchange_s": 0.0, "publish": "held", "launch": "driver"
    }  # fmt: skip
    lines = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    pieces = [[line[k] for k in ("generate_s", "train_s")] for line in lines if "train_s" in line][1:]
    assert max(np.mean(pieces, axis=0)) * 0.5 < said["predicted"]["seconds_a_step"] < np.sum(pieces) / len(pieces) * 1.5
