"""Files of one's own at the command line: what each method can use, splits that are too small or less than asked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from equipoise import recipes
from equipoise.cli import main
from equipoise.errors import ArgumentError
from equipoise.record.folder import read_toml
from equipoise.tasks import load

QUICK = "--model tiny --threads 1 --eval.points 0 --test.items 2 --test.samples 1 --test.no-start --no-preflight"
Fails = Callable[[str], str]


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Runs a command that must be refused; what it said."""
    monkeypatch.chdir(tmp_path)

    def failing(command: str) -> str:
        got = main(shlex.split(command))
        said = capsys.readouterr()
        assert got == 2, said
        return " ".join(said.err.split())

    return failing


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def completion(n: int) -> dict[str, Any]:
    return {"prompt": f"What is {n}+{n}?", "completion": str(2 * n)}


def labelled(n: int) -> dict[str, Any]:
    return {**completion(n), "answer": str(2 * n), "label": n % 2 == 0}


def pair(n: int) -> dict[str, Any]:
    return {"prompt": f"What is {n}+{n}?", "chosen": str(2 * n), "rejected": str(2 * n + 1)}


# -- what each method can use ------------------------------------------------------------------------------------------

FILES: dict[str, tuple[Callable[[int], dict[str, Any]], dict[str, Any], set[str]]] = {
    "demonstrations": (completion, {}, {"demonstrations"}),
    "labelled": (labelled, {}, {"demonstrations"}),
    "labelled, judged": (labelled, {"verifier": "exact"}, {"verifier"}),
    "pairs": (pair, {}, {"pairs"}),
    "answers": (lambda n: {"prompt": f"q {n}", "answer": n}, {"verifier": "exact"}, {"verifier"}),
}


@pytest.mark.parametrize("form", FILES)
def test_every_method_takes_a_file_or_says_which_methods_can(form: str, tmp_path: Path) -> None:
    make, knobs, has = FILES[form]
    task = load(f"file:{write(tmp_path / 'd.jsonl', map(make, range(40)))}", **knobs)
    assert set(recipes.holds(task)) == has
    for name in recipes.names():
        needs = recipes.method(name).about.needs
        if all(set(need.split(" or ")) & has for need in needs):
            assert name in recipes.usable(has)
            assert recipes.build(name, task).stages
        elif set(" or ".join(needs).split(" or ")) <= {"verifier", "demonstrations", "pairs"}:
            assert name not in recipes.usable(has)
            with pytest.raises(ArgumentError) as caught:
                recipes.build(name, task)
            said = str(caught.value)
            assert said.startswith(f"{name} needs ") and f"has {', '.join(has)}" in said
            assert f"can be used by {', '.join(recipes.usable(has))}" in said
    if task.close:
        task.close()


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("dpo", ["dpo needs pairs or verifier", "has demonstrations", "columns prompt, chosen and rejected"]),
        ("grpo", ["grpo needs verifier", "dft, em, sft", "chosen by --task.verifier"]),
    ],
)
def test_labelled_rows_are_told_who_can_use_them(method: str, parts: list[str], tmp_path: Path, fails: Fails) -> None:
    write(tmp_path / "rows.jsonl", map(labelled, range(150)))
    said = fails(f"train {method} --task file:rows.jsonl {QUICK} --out out")
    assert all(part in said for part in parts), said
    assert not (tmp_path / "out" / "run.toml").exists()


def test_sft_learns_from_the_rows_labelled_good_and_from_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", map(labelled, range(300)))
    out = tmp_path / "out"
    command = f"train sft --task file:{path} {QUICK} --prompts 64 --budget.labels 64 --out {out}"
    assert main(shlex.split(command)) == 0
    import duckdb

    shown = duckdb.sql(f"select distinct text from '{out}/rollouts/*.parquet'").fetchall()
    good = {str(2 * n) for n in range(0, 300, 2)}
    assert len(shown) >= 60 and {text for (text,) in shown} <= good


# -- splits that are too small -----------------------------------------------------------------------------------------


def rows_with(train: int, validation: int, test: int) -> list[dict[str, Any]]:
    names = ["train"] * train + ["validation"] * validation + ["test"] * test
    return [{**completion(n), "split": name} for n, name in enumerate(names)]


def test_too_few_validation_items_are_told_before_training(tmp_path: Path, fails: Fails) -> None:
    path = write(tmp_path / "rows.jsonl", rows_with(30, 1, 10))
    command = f"train sft --task file:{path} --model tiny --threads 1 --test.items 2 --test.no-start --budget.labels 30"
    said = fails(f"{command} --out few")
    assert "has 1 validation items, and an interval needs at least 2" in said
    assert "as validation in a 'split' column" in said and "--eval.points 0" in said
    assert not (tmp_path / "few" / "run.toml").exists()
    assert main(shlex.split(f"{command} --eval.points 0 --dry-run")) == 0


@pytest.mark.parametrize("method", recipes.names())
def test_an_empty_train_split_is_an_error_that_says_how_to_fix_it(method: str) -> None:
    empty = replace(toy.TASK, splits={**toy.TASK.splits, "train": []}, pair=lambda p: ("1", "2"))
    with pytest.raises(ArgumentError, match=r"task 'toy' has no prompt in its train split \(0 train, 6 .*Add rows"):
        recipes.build(method, empty)


def test_rows_too_long_for_the_model_are_never_drawn_once_dropped(tmp_path: Path) -> None:
    rows = [completion(n) for n in range(150)]
    rows[7]["prompt"] += " please" * 600
    path, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    command = f"train sft --task file:{path} --task.long drop {QUICK} --prompts 64 --budget.labels 200 --out {out}"
    assert main(shlex.split(command)) == 0, "more labels than rows: every row was drawn"


# -- fewer items than asked for ----------------------------------------------------------------------------------------


def test_fewer_items_than_asked_for_are_said_once_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "rows.jsonl", rows_with(30, 5, 7)), tmp_path / "out"
    command = f"train sft --task file:{path} --model tiny --threads 1 --prompts 15 --budget.labels 30 --eval.points 1"
    assert main(shlex.split(f"{command} --dry-run")) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "1 on 5 validation items" in plan and "7 test items" in plan
    assert main(shlex.split(f"{command} --out {out}")) == 0
    said = capsys.readouterr().err
    assert said.count("test: 7 items, all that the split has (200 asked)") == 1
    assert said.count("validation: 5 items, all that the split has (64 asked)") == 1
    assert read_toml(out / "run.toml")["resolved"]["items"] == {"validation": 5, "test": 7}
    assert json.loads((out / "final.json").read_text())["test"]["items"] == 7


def test_an_evaluation_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "rows.jsonl", rows_with(9, 5, 7))
    assert main(shlex.split(f"eval tiny --task file:{path} --threads 1 --items 50 --json")) == 0
    said = capsys.readouterr()
    assert "test: 7 items, all that the split has (50 asked)" in said.err
    assert json.loads(said.out)["items"] == 7
    assert main(shlex.split(f"eval tiny --task file:{path} --threads 1 --items 7 --json")) == 0
    assert "asked" not in capsys.readouterr().err
