"""`equipoise plan` at the command line: the JSON contract, tables, pictures, contradictions, the missing extra."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.cli import main

SMALL = "--prompts 12 --samples 4 --response-tokens 200 --response-max 600 --steps 3"


def said(capsys: pytest.CaptureFixture[str], command: str, status: int = 0) -> str:
    capsys.readouterr()
    try:
        got = main(shlex.split(command))
    except SystemExit as e:
        got = int(e.code or 0)
    heard = capsys.readouterr()
    assert got == status, heard
    return heard.err if status else heard.out


def test_json_says_all_that_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, f"plan {SMALL} --json"))
    assert found["cluster"]["prompts"] == 12
    assert found["gpus"] == 8
    assert set(found["learner"]) == {"learn", "score", "record", "publish", "groups"}
    assert set(found["samplers"]) == {"generate", "tail", "weights", "swap"}
    assert set(found["gains"]) == {"generation", "learner", "publication", "one step further ahead"}
    assert sum(found["generation"].values()) == pytest.approx(1)
    assert found["seconds_a_step"] > 0
    assert found["tokens_a_second"] > 0
    assert found["bound"] in (*found["gains"], "turns", "balanced")
    assert json.loads(said(capsys, f"plan {SMALL} --json")) == found, "the same numbers each time"


def test_table_says_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys, f"plan {SMALL}").split())
    for words in ("7b on 8 x h100", "seconds a step", "bound by", "Simulated, not measured"):
        assert words in text


def test_split_auto_shows_the_best_and_keeps_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = json.loads(said(capsys, f"plan {SMALL} --gpus 8 --split auto --sampler-gpus 1 --out {tmp_path} --json"))
    top = max(found["splits"], key=lambda row: row["tokens_a_second"])
    assert {k: found["cluster"][k] for k in ("learners", "samplers")} == {k: top[k] for k in ("learners", "samplers")}
    assert json.loads((tmp_path / "plan.json").read_text()) == found
    for name in ("plan.png", "split.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_file_may_hold_any_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        "ahead = 0\nlearners = 1\nprompts = 8\nresponse_tokens = 100\nresponse_max = 200\n"
        "[model]\nlayers = 2\nwidth = 64\nheads = 4\nkv_heads = 2\nhead_width = 16\ninner = 128\nvocabulary = 100\n"
    )
    found = json.loads(said(capsys, f"plan --cluster {file} --samples 2 --json"))
    assert found["cluster"]["model"]["width"] == 64
    assert (found["cluster"]["ahead"], found["cluster"]["samples"], found["cluster"]["prompts"]) == (0, 2, 8)


WRONG = {
    "plan --model 8b": "no model shape is called '8b'",
    "plan --ahead -1": "ahead is -1; expected a whole number of at least 0",
    "plan --gpus 8": "--gpus and --split go together",
    "plan --gpus 8 --split 8": "leaves no learner or no sampler",
    "plan --gpus 8 --split half": "expected auto or a number of learners",
    "plan --gpus 8 --split auto --learners 2": "leave learners out",
    "plan --launch now": "no way to launch is called 'now'",
    "plan --from nowhere --ahead -1": "ahead is -1; expected at least 0",
    "plan --cores 2": "give the run with --from as well",
    "plan --from nowhere": "is no run directory",
    "plan --from nowhere --model 7b": "--model and --from contradict each other",
    "plan --model 70b": "learners hold too little memory for 70b",
    "plan --cluster nowhere.toml": "nowhere.toml does not exist",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_arguments_are_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = 1 if command in ("plan --from nowhere", "plan --cluster nowhere.toml") else 2
    assert WRONG[command] in " ".join(said(capsys, command, status).split())


def test_a_number_given_twice_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("ahead = 0\n")
    text = said(capsys, f"plan --cluster {tmp_path / 'c.toml'} --ahead 1", 2)
    assert "--ahead and ahead in" in text
    (tmp_path / "c.toml").write_text("speed = 0\n")
    assert "no number of a cluster is called 'speed'" in said(capsys, f"plan --cluster {tmp_path / 'c.toml'}", 2)


def test_without_the_extra_the_command_that_installs_it_is_told() -> None:
    code = "import sys; sys.modules['simpy'] = None\nfrom equipoise.cli import main\nsys.exit(main(['plan']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'equipoise[plan]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom equipoise.cli import main\ntry:\n    main(['plan', '--help'])\nexcept SystemExit:\n    pass\n"
    )
    code += "assert not {'simpy', 'torch', 'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
