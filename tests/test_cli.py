"""Bad input at the command line: each is told what was got, what was expected and how to mend it; nothing is lost."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import equipoise
from equipoise.cli import main, options
from equipoise.record import trackers
from equipoise.record.folder import Folder

TINY = Path(equipoise.__file__).parent / "models" / "tiny"
SMALL = (
    "--model tiny --threads 1 --prompts 2 --samples 2 --eval.points 0 --test.items 2 --test.samples 1 --test.no-start"
)
ON_ADDITION = f"{SMALL} --task addition --task.difficulty 2"
Fails = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Runs a command that must fail with this status; what it said, with its white space made plain."""
    monkeypatch.chdir(tmp_path)

    def failing(command: str, status: int = 2) -> str:
        try:
            got = main(shlex.split(command))
        except SystemExit as e:  # of the argument parser
            got = int(e.code or 0)
        said = capsys.readouterr()
        assert got == status, said
        return " ".join(said.err.replace("│", " ").split())

    return failing


# -- names and arguments: told before anything is loaded or written ----------------------------------------------------

WRONG = {
    "trian": ["no command is called 'trian'", "Did you mean trial or train?"],
    "train": ["a method comes first"],
    "train grop": ["no method is called 'grop'", "grpo"],
    "train grpo --task additoin --model tiny": ["no task is called 'additoin'", "Did you mean addition?"],
    "train grpo --task addition --model tinny": ["no model is called 'tinny'", "Did you mean tiny?"],
    "train grpo --task addition --model ./nowhere": ["'./nowhere' is not a folder", "config.json"],
    "train grpo --task addition --model tiny --task.dificulty 3": ["--task.dificulty", "--task.difficulty"],
    "train grpo --task addition --model tiny --sampels 3": ["--sampels", "--samples INT"],
    "train grpo --task addition": ["--model"],
    "train grpo --task addition --model tiny --device tpu": ["no device is called 'tpu'", "cpu"],
    "train grpo --task addition --model tiny --dtype int4": ["no dtype is called 'int4'", "bfloat16"],
    "train grpo --task addition --model tiny --track mlflow": ["no tracker is called 'mlflow'", "trackio"],
    "train grpo --task addition --model tiny --allow equl": ["'equl'", "Did you mean equal?"],
    "train grpo --task addition --model tiny --prompts 0": ["prompts=0", "at least 1"],
    "train grpo --task addition --model tiny --epochs 0": ["epochs=0", "at least 1"],
    "train grpo --task addition --model tiny --lr -1": ["learning rate of stage train is -1", "above 0"],
    "train grpo --task addition --model tiny --lr nan": ["learning rate of stage train is nan", "above 0"],
    "train grpo --task addition --model tiny --optimiser.clip 0": ["--optimiser.clip is 0", "inf for no clipping"],
    "train grpo --task addition --model tiny --optimiser.beta2 1": ["--optimiser.beta2 is 1", "below 1"],
    "train grpo --task addition --model tiny --seed -1": ["--seed is -1", "at least 0"],
    "train grpo --task addition --model tiny --learners 2": ["--learners 2", "--engine is local", "Add --engine ray"],
    "train grpo --task addition --model tiny --engine rya": ["no engine is called 'rya'", "Did you mean ray?"],
    "train grpo --task addition --model tiny --engine ray --samplers 0": ["--samplers is 0", "at least 1"],
    "train grpo --task addition --model tiny --engine ray --sampler vlm": ["no sampler is called 'vlm'", "vllm"],
    "train grpo --task addition --model tiny --engine ray --device cuda": ["--device cuda with --engine ray", "CPU"],
    "train grpo --task addition --model tiny --prices.flop -1": ["--prices.flop is -1", "cannot be negative"],
    "train grpo --task file:none.jsonl --model tiny": ["none.jsonl"],
    "train --from nowhere": ["nowhere", "does not exist"],
    "eval tiny --task addition --split tset": ["no split is called 'tset'", "Did you mean test?"],
    "eval tiny --task addition --k 4 --samples 2 --items 2": ["got k = [4] with 2 samples", "raise --samples"],
    "trial": ["name the methods", "grpo"],
    "trial grpo --task addition --model tiny": ["a trial needs a --budget"],
    "trial grpo --task addition --model tiny --budget.flops 1e9 --seeds 0": ["--seeds is 0", "at least 1"],
    "resume nowhere": ["nowhere", "no run directory"],
    "report nowhere": ["nowhere is neither a run nor a trial"],
    "export nowhere folder": ["nowhere is no run directory"],
    "chat ./nowhere": ["'./nowhere' is not a folder"],
    "data chekc rows.jsonl": ["no data command is called 'chekc'", "Did you mean check?"],
}
FAILED = ("resume", "report", "export", "train --from")  # not a wrong argument but a directory that is not there


@pytest.mark.parametrize("command", WRONG)
def test_what_is_misspelt_or_missing(command: str, fails: Fails, tmp_path: Path) -> None:
    said = fails(command, 1 if command.startswith(FAILED) else 2)
    for part in WRONG[command]:
        assert part in said, said
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    assert not left, left


def test_a_cluster_without_ray_says_how_to_install_it(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    for command in (f"train grpo {ON_ADDITION} --engine ray", TRIAL):
        assert "pip install 'equipoise[ray]'" in fails(command)


TRIAL = "trial sft --task addition --model tiny --budget.labels 10 --engine ray --jobs 1"


# -- budgets -----------------------------------------------------------------------------------------------------------

BUDGETS = {
    "grpo --budget.generated-tokens 0": ["--budget.generated-tokens is 0", "above 0"],
    "grpo --budget.flops -1": ["--budget.flops is -1", "above 0"],
    "grpo --budget.flops nan": ["--budget.flops is nan", "above 0"],
    "grpo --budget.flops inf": ["--budget.flops is inf", "above 0"],
    "grpo --budget.generated-tokens nan": ["'nan' is not a whole number", "--budget.generated-tokens INT"],
    "grpo --budget.generated-tokens inf": ["'inf' is not a whole number"],
    "grpo --budget.generated-tokens 1.5": ["'1.5' is not a whole number"],
    "grpo --budget.generated-tokens many": ["many"],
    "sft --budget.generated-tokens 10k": ["sft spends no generated tokens", "It can be limited by --budget.flops"],
    "grpo --budget.labels 10": ["grpo spends no labels", "--budget.generated-tokens"],
    "grpo --budget.generated-tokens 50": ["50 is below the smallest step of grpo", "may cost", "at least 2"],
    "tulu3 --sft-share 0.6 --dpo-share 0.5": ["sft_share=0.6", "dpo_share=0.5", "sum < 1"],
    "grpo --budget.generated-tokens 4k --eval.points 5": ["5 evaluations of 64 items", "Lower --eval.points"],
}


@pytest.mark.parametrize("arguments", BUDGETS)
def test_budgets_that_cannot_be(arguments: str, fails: Fails) -> None:
    said = fails(f"train {arguments} --task addition --model tiny --threads 1 --dry-run")
    for part in BUDGETS[arguments]:
        assert part in said, said


@pytest.mark.parametrize(
    ("text", "value"), [("1e5", 100_000), ("100k", 100_000), ("2.5M", 2_500_000), ("1_000", 1000), ("1,000", 1000)]
)
def test_whole_numbers_as_people_write_them(text: str, value: int) -> None:
    flags = [options.Flag("n", int), options.Flag("m", int | None, None), options.Flag("k", tuple[int, ...], (1,))]
    assert options.parse("x", "", flags, ["--n", text, "--m", text, "--k", text, "2"]) == {
        "n": value,
        "m": value,
        "k": (value, 2),
    }
    assert options.parse("x", "", flags, ["--n", text])["m"] is None
    assert isinstance(options.parse("x", "", flags, ["--n", text])["n"], int)


# -- directories and checkpoints ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a few steps on a file of one's own."""
    folder = tmp_path_factory.mktemp("own")
    rows(folder / "rows.jsonl")
    out = folder / "run"
    command = f"train sft --task file:{folder}/rows.jsonl --model tiny --threads 1 --budget.labels 24 --out {out}"
    assert main(shlex.split(command + " --prompts 8 --eval.points 0 --test.items 2 --test.no-start")) == 0
    return out


def rows(path: Path, count: int = 150, long: int = 0) -> None:
    made = [{"prompt": f"What is {i}+{i}?", "completion": str(2 * i), "answer": str(2 * i)} for i in range(count)]
    made[0]["prompt"] += " please" * long
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.fixture
def unfinished(run: Path, tmp_path: Path) -> Path:
    """The run as a kill before its final test would leave it, with its data beside it."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for name in ("final.json", "model"):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


def test_an_existing_run_is_not_touched(run: Path, unfinished: Path, fails: Fails) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    said = fails(f"train grpo {ON_ADDITION} --out {run}", 1)
    assert "holds a finished run" in said and f"equipoise resume {run}" in said and "another --out" in said
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert "an unfinished run" in fails(f"train grpo {ON_ADDITION} --out {unfinished}", 1)


def test_a_directory_with_other_things_is_not_touched(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "exists and is not empty" in fails(f"train grpo {ON_ADDITION} --out mine", 1)
    assert "is a file" in fails(f"train grpo {ON_ADDITION} --out mine/thesis.tex", 1)


def test_a_run_that_could_not_begin_leaves_its_name_free(tmp_path: Path, fails: Fails) -> None:
    fails(f"train grpo {ON_ADDITION} --budget.generated-tokens 5 --out again")
    assert main(shlex.split(f"train grpo {ON_ADDITION} --budget.generated-tokens 1k --no-preflight --out again")) == 0


def test_a_damaged_checkpoint_is_passed_over_and_then_told(unfinished: Path, fails: Fails) -> None:
    found = sorted((unfinished / "checkpoints").glob("step-*"))
    assert len(found) == 2
    weights = found[1] / "engine" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    again = unfinished.parent / "again"
    shutil.copytree(unfinished, again)
    assert main(["resume", str(again)]) == 0  # from the one before
    (found[0] / "state.json").write_text("{}")
    said = fails(f"resume {unfinished}", 1)
    assert "no usable checkpoint" in said and "weights.safetensors is truncated or altered" in said
    assert f"{found[0].name}/state.json" in said and "another --out" in said


def test_a_checkpoint_of_another_model(unfinished: Path, fails: Fails) -> None:
    path = unfinished / "run.toml"
    path.write_text(path.read_text().replace('model = "tiny"', 'model = "tiny"\nlora_rank = 2', 1))
    assert "RecordError" in fails(f"resume {unfinished}", 1)


def test_other_data_and_other_versions_stop_a_resume(run: Path, unfinished: Path, fails: Fails) -> None:
    data, path = run.parent / "rows.jsonl", unfinished / "run.toml"
    kept = data.read_bytes()
    try:
        rows(data, 151)
        said = fails(f"resume {unfinished}", 1)
        assert "was trained on other data" in said and "Bring the data back" in said
    finally:
        data.write_bytes(kept)
    text = path.read_text()
    path.write_text(re.sub('products = ".*"', 'products = "rounded"', text))
    said = fails(f"resume {unfinished}", 1)
    assert "products rounded" in said and "--allow world" in said
    path.write_text(text.replace('torch = "', 'torch = "0.', 1))
    said = fails(f"resume {unfinished}", 1)
    assert "versions" in said and "--allow world" in said
    assert main(["resume", str(unfinished), "--allow", "world"]) == 0


def test_too_few_items_to_test_on_are_told_before_training(tmp_path: Path, fails: Fails) -> None:
    rows(tmp_path / "rows.jsonl", 10)
    said = fails("train sft --task file:rows.jsonl --model tiny --threads 1 --out few")
    assert "has 1 test items" in said and "--task.test PATH" in said and not (tmp_path / "few" / "run.toml").exists()


# -- preflight ---------------------------------------------------------------------------------------------------------


def test_preflight_stops_and_goes_on_when_told(tmp_path: Path, fails: Fails) -> None:
    hopeless = f"{SMALL} --task addition --task.difficulty 9 --budget.generated-tokens 6k"
    said = fails(f"train grpo {hopeless} --out hopeless", 1)
    assert "equal: in none of 8 prompts did the 2 samples' rewards differ" in said
    assert "Nothing was trained" in said and "sft first" in said
    names = said[said.index("--allow ") :].split("(")[0].strip()
    assert f"equipoise resume hopeless {names}" in said
    assert main(["resume", "hopeless", *names.split()]) == 0
    assert (tmp_path / "hopeless" / "final.json").exists()


# -- verifiers of one's own --------------------------------------------------------------------------------------------

REWARDS = """
import time

def boom(prompts, completions, **columns):
    raise RuntimeError("no such host")

def sleepy(prompts, completions, **columns):
    time.sleep(60)

def nan(prompts, completions, **columns):
    return [float("nan")] * len(prompts)
"""


@pytest.mark.parametrize(("name", "cause"), [("boom", "no such host"), ("sleepy", "1 s"), ("nan", "returned nan")])
def test_a_verifier_that_fails_stops_the_run(
    name: str, cause: str, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows(tmp_path / "rows.jsonl")
    knobs = f"--task.verifier own_rewards:{name} --task.deadline-s 1 --task.max-new-tokens 8 --task.chat"
    said = fails(f"train grpo {SMALL} --task file:rows.jsonl {knobs} --no-preflight --out out", 1)
    assert "VerifierFailure" in said and cause in said and "no failure was counted as a reward of 0" in said
    assert "resume" in said and (tmp_path / "out" / "run.toml").exists()


# -- models and prompts ------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_model(tmp_path: Path, fails: Fails) -> None:
    rows(tmp_path / "rows.jsonl", long=600)
    command = "train sft --task file:rows.jsonl --model tiny --threads 1 --eval.points 0 --dry-run --out out"
    said = fails(command)
    assert "512" in said and "--task.long drop" in said
    assert main(shlex.split(f"{command} --task.long drop")) == 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    return folder


def without(path: Path, name: str) -> None:
    """Null and not left out: a configuration's class may have a default."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: None}))


def test_a_model_without_an_end_token(model: Path, fails: Fails) -> None:
    without(model / "tokenizer_config.json", "eos_token")
    without(model / "config.json", "eos_token_id")
    without(model / "generation_config.json", "eos_token_id")
    said = fails(f"train sft --task addition --model {model} --dry-run")
    assert "has no end-of-sequence token" in said and "tokenizer_config.json" in said


def test_a_model_without_a_chat_template(model: Path, fails: Fails) -> None:
    without(model / "tokenizer_config.json", "chat_template")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    said = fails(f"train sft --task addition --model {model} --dry-run")
    assert "has no chat template" in said and "list of messages" in said


def test_a_folder_whose_weights_are_cut_off(model: Path, fails: Fails) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "ModelError" in fails(f"train sft --task addition --model {model} --dry-run")


# -- trackers ----------------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails_never_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def broken(run: str, folder: Path, settings: object) -> trackers.Track:
        def send(numbers: object, step: int) -> None:
            calls.append(step)
            raise ConnectionError("the service is down")

        return send

    monkeypatch.setattr(trackers, "_wandb", broken)
    command = f"train grpo {ON_ADDITION} --budget.generated-tokens 1k --no-preflight --track wandb --out {tmp_path}/out"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert main(shlex.split(command)) == 0
    assert len(calls) == 1 and len(Folder(tmp_path / "out").lines("metrics.jsonl")) > 2
    assert any("wandb failed at step" in str(w.message) and "the run goes on" in str(w.message) for w in warned)
