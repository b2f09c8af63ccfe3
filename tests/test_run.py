"""Whole runs on the shipped model: what is written, killed and interrupted and replayed, exported, talked to."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from equipoise.cli import main
from equipoise.engine.optimiser import Optimiser
from equipoise.job.job import prepare, saved
from equipoise.record import checkpoint, rollouts
from equipoise.record.folder import Folder
from equipoise.types import Estimate

# One run for most tests: GRPO with a KL to the start, in eight steps or so; evaluated at both ends.
TRAIN = shlex.split(
    "train grpo --task addition --task.difficulty 2 --model tiny --budget.generated-tokens 4k --prompts 4 --samples 4 "
    "--kl 0.1 --eval.points 2 --eval.items 4 --eval.samples 2 --test.items 8 --test.samples 2 --threads 1 "
    "--optimiser.clip 0.5 --optimiser.weight-decay 0.01"
)
METHODS = {"sft", "dft", "rft", "dpo", "rloo", "grpo", "dr_grpo", "dapo", "ppo", "nft", "mix", "tulu3"}


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*TRAIN, "--out", str(out)]) == 0
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    return Folder(folder).lines("metrics.jsonl")


def steps(folder: Path) -> list[dict[str, Any]]:
    """Lines of training steps: neither the evaluation before the first nor the one after the last."""
    return [line for line in lines(folder) if "lr" in line]


def assert_same(a: Path, b: Path) -> None:
    """Metrics, rollouts and weights, bit by bit."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    names = sorted(p.name for p in (a / "rollouts").iterdir())
    assert names == sorted(p.name for p in (b / "rollouts").iterdir())
    for name in names:
        assert pq.read_table(a / "rollouts" / name).equals(pq.read_table(b / "rollouts" / name)), name
    weights = "model/model.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


# -- the record --------------------------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_promises(run: Path) -> None:
    for name in ("run.toml", "metrics.jsonl", "timings.jsonl", "ledger.jsonl", "final.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert "step-0000001.parquet" in {p.name for p in (run / "rollouts").iterdir()}
    assert {p.suffix for p in (run / "checkpoints").rglob("*") if p.is_file()} == {".json", ".safetensors"}
    assert len(list((run / "checkpoints").glob("step-*"))) <= checkpoint.KEEP
    assert [line["step"] for line in lines(run)] == list(range(len(lines(run))))
    assert all("eval/pass@1" in line for line in (lines(run)[0], lines(run)[-1]))
    resolved = saved_toml(run)["resolved"]
    assert saved_toml(run)["optimiser"] == asdict(Optimiser(clip=0.5, weight_decay=0.01))
    assert resolved["threads"] == 1 and resolved["fingerprint"] and resolved["versions"]["torch"]


def saved_toml(run: Path) -> dict[str, Any]:
    return Folder(run).read_toml("run.toml")


def test_final_json(run: Path) -> None:
    final = json.loads((run / "final.json").read_text())
    assert (final["method"], final["task"], final["model"], final["seed"]) == ("grpo", "addition", "tiny", 0)
    assert final["budget"] == {"generated_tokens": 4000} and final["stopped"] == "budget spent"
    assert final["spent"]["generated_tokens"] + final["unspent"]["generated_tokens"] == 4000
    assert 0 <= final["unspent"]["generated_tokens"] < 400  # not enough for one more group
    for part in ("start", "test"):
        assert (final[part]["items"], final[part]["samples"], final[part]["split"]) == (8, 2, "test")
        assert {"pass@1", "pass@2", "reward", "length"} <= set(final[part]["metrics"])
        for value in final[part]["metrics"].values():
            assert value["low"] <= value["value"] <= value["high"]


def test_the_ledger_agrees_with_the_rollouts(run: Path) -> None:
    """Every sampled token of preflight and training is in the files, and was charged once."""
    final = json.loads((run / "final.json").read_text())["spent_on"]
    sampled = {"preflight": 0, "sampling": 0}
    for path in (run / "rollouts").glob("*.parquet"):
        for row in pq.read_table(path, columns=["use", "ids"]).to_pylist():
            sampled["preflight" if row["use"] == "preflight" else "sampling"] += len(row["ids"])
    assert sampled == {what: final[what]["generated_tokens"] for what in sampled}
    parts = sum(final[what]["generated_tokens"] for what in ("preflight", "sampling", "evaluation"))
    assert parts == final["total"]["generated_tokens"]


def test_mismatch_is_small_in_every_step(run: Path) -> None:
    """Invariant 2: sampler and learner agree on log-probs."""
    assert len(steps(run)) >= 4
    for line in steps(run):
        assert line["mismatch"] <= line["mismatch_max"] <= 1e-4


def test_kl_to_the_start_is_exactly_zero_at_first(run: Path) -> None:
    """Invariant 3: the same weights on the same packed batch; later they differ."""
    kl = [line["kl"] for line in steps(run)]
    assert kl[0] == 0.0
    assert all(x > 0 for x in kl[1:])


# -- killed, interrupted, replayed -------------------------------------------------------------------------------------


CHECKPOINTS_EVERY_STEP = """
import sys
from dataclasses import replace
from pathlib import Path
from equipoise.cli.train import start
from equipoise.job.job import saved

like, out = map(Path, sys.argv[1:])
sys.exit(start(replace(saved(like), checkpoint_s=0.0), out, False))
"""


def started(like: Path, out: Path) -> subprocess.Popen[bytes]:
    """The same run in a process of its own."""
    command = [sys.executable, "-c", CHECKPOINTS_EVERY_STEP, str(like), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_lines(process: subprocess.Popen[bytes], out: Path, count: int, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        path = out / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"not {count} lines after {timeout_s} s")


def test_killed_and_resumed_is_bit_identical(run: Path, tmp_path: Path) -> None:
    """Invariant 4, with a real kill -9 and a new process."""
    out = tmp_path / "killed"
    process = started(run, out)
    wait_for_lines(process, out, 4)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "final.json").exists() and len(lines(out)) < len(lines(run))
    command = [sys.executable, "-m", "equipoise.cli", "resume", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert_same(run, out)
    mine, whole = (json.loads((p / "final.json").read_text()) for p in (out, run))
    assert mine["test"] == whole["test"] and mine["start"] == whole["start"]
    assert mine["unspent"] == whole["unspent"]  # work done twice is recorded as lost, not charged twice


def test_interrupted_ends_after_the_step_and_can_go_on(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    process = started(run, out)
    wait_for_lines(process, out, 3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, said
    assert f"equipoiseresume{out}" in "".join(said.split()) and not (out / "final.json").exists()
    assert (out / "report.html").exists()
    last = lines(out)[-1]["step"]
    assert checkpoint.newest(out / "checkpoints").name == f"step-{last:07d}" and last < len(lines(run)) - 1
    assert main(["resume", str(out)]) == 0
    assert_same(run, out)
    assert main(["resume", str(out)]) == 0  # a finished run is left as it is


def test_replayed_from_its_toml_is_the_same_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["train", "--from", str(run / "run.toml"), "--out", str(out)]) == 0
    assert_same(run, out)


# -- the model ---------------------------------------------------------------------------------------------------------


def logprobs(model: Any, ids: list[int], start: int) -> np.ndarray:
    """Of every token from ``start`` on, by plain transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    following = torch.tensor(ids[start:])
    return np.asarray(logits[start - 1 : -1].log_softmax(-1).gather(1, following[:, None])[:, 0].numpy())


def test_plain_transformers_opens_the_model_and_agrees(run: Path) -> None:
    """Invariant 9: model/ is the policy of the last checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(run / "model", trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "model", trust_remote_code=False)
    engine = prepare(saved(run)).engine
    groups = rollouts.read(run / "rollouts")[-2:]
    at_start = engine.outputs(groups, ["logp"])
    engine.load(checkpoint.newest(run / "checkpoints") / "engine")
    at_end = engine.outputs(groups, ["logp"])
    for group, mine, before in zip(groups, at_end, at_start, strict=True):
        prompt = list(group.prompt.ids or ())
        assert tokenizer.apply_chat_template(group.prompt.messages, add_generation_prompt=True)["input_ids"] == prompt
        for i, response in enumerate(group.responses):
            theirs = logprobs(model, prompt + [int(x) for x in response.ids], len(prompt))
            assert np.abs(theirs - mine["logp"][i]).max() < 1e-4
            assert np.abs(before["logp"][i] - mine["logp"][i]).max() > 1e-3  # the model did move


def test_export_writes_a_folder_with_a_card(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "exported"
    assert main(["export", str(run), str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    card = (folder / "README.md").read_text()
    fingerprint = saved_toml(run)["resolved"]["fingerprint"]
    for said in ("`grpo`", "`addition`", fingerprint, "4,000 generated tokens", "license: apache-2.0", "tiny"):
        assert said in card, said
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert main(["export", str(run), str(folder)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


# -- other commands ----------------------------------------------------------------------------------------------------


def test_eval_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"eval {run} --task addition --task.difficulty 2 --k 1 2 --items 8 --threads 1 --json"
    assert main(command.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"task", "split", "items", "samples", "metrics"}
    assert (found["task"], found["split"], found["items"], found["samples"]) == ("addition", "test", 8, 2)
    for value in found["metrics"].values():
        assert set(value) == {"value", "low", "high"} and value["low"] <= value["value"] <= value["high"]
    final = json.loads((run / "final.json").read_text())
    assert found["metrics"] == final["test"]["metrics"]  # the same items, keys and weights


def test_methods_and_tasks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)
    assert {m["name"] for m in methods} >= METHODS
    assert all(set(m) == {"name", "title", "arxiv", "family", "summary", "needs"} for m in methods)
    assert main(["methods", "preference", "--json"]) == 0
    assert 0 < len(json.loads(capsys.readouterr().out)) < len(methods)
    assert main(["tasks", "--json"]) == 0
    assert {"addition", "countdown", "lists", "knights", "instruct"} <= {
        t["name"] for t in json.loads(capsys.readouterr().out)
    }


def test_report_is_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = (run / "report.html").read_text()
    assert "grpo" in page and "addition" in page and (run / "report.png").stat().st_size > 1000


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--out", str(tmp_path / "dry"), "--dry-run"]) == 0
    assert not (tmp_path / "dry").exists()
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    plan = prepare_plan()
    assert plan.formula.split()[0] in said and "divided by" in said and plan.denominator.split()[0] in said
    for expected in ("4 prompts", "4 samples", "4,000 generated tokens", "MiB", "at most about", "clipped at 0.5"):
        assert expected in said, expected


def prepare_plan() -> Any:
    from equipoise import recipes, tasks

    stage = recipes.build("grpo", tasks.load("addition"), kl=0.1).stages[0]
    return stage.streams[0].objective


def test_chat(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 12+34?\n/new\nWhat is 12+34?\n\nnever read\n"))
    assert main(["chat", str(run), "--temperature", "0", "--max-new-tokens", "40"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.strip()  # greedy, and begun afresh


def test_control_characters_never_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped model cannot be made to say them, so its decoder is: what a hostile model would send."""
    from equipoise.cli.show import clean
    from equipoise.engine.local.text import Text

    monkeypatch.setattr(Text, "decode", lambda self, ids: "\x1b[2J\x1b]0;owned\x07\x9b31m\rok\n[bold]\u202eok")
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert main(["chat", "tiny", "--max-new-tokens", "3"]) == 0
    said = capsys.readouterr().out
    assert "ok" in said and not set(said) & set("\x1b\x07\x9b\r\u202e")
    assert clean("\x1b[bold]x") == "\N{REPLACEMENT CHARACTER}\\[bold]x"


def test_data_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    chats = [
        [{"role": "user", "content": f"What is {i}+2?"}, {"role": "assistant", "content": str(i + 2)}]
        for i in [*range(20), 3]
    ]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    assert main(["data", "check", str(path), "--model", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "messages" in said and "<|end|>" in said and "1 rows refused: each repeats" in said


def test_an_estimate_in_the_terminal() -> None:
    from equipoise.cli.show import estimate

    assert estimate(Estimate(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"
