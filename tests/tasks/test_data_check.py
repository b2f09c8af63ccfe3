"""``data check``: counts that were put into a file come out of its report, and nothing steers the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from equipoise.errors import DataError, UnknownName
from equipoise.tasks.preview import Report, inspect, printable, render


@pytest.fixture(scope="module")
def tiny() -> Any:
    from equipoise.engine.local import load

    return load("tiny", device="cpu")


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def said(report: Report) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=160, force_terminal=True, color_system="truecolor"))
    return stream.getvalue()


def chat(n: int, reply: str = "It is {}.") -> dict[str, Any]:
    turns = [{"role": "user", "content": f"What is {n}+1?"}, {"role": "assistant", "content": reply.format(n + 1)}]
    return {"messages": turns, "source": "sums"}


def test_a_clean_file(tiny: Any, tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "d.jsonl", map(chat, range(100, 300))), tiny)
    assert (report.form, report.rows, report.checked, report.replies) == ("messages", 200, 200, 200)
    assert sum(report.splits.values()) == 200 and report.columns == ["source"]
    assert report.problems() == []
    prompt, reply, together = (report.lengths[k] for k in ("prompt", "reply", "prompt + reply"))
    assert prompt[0] <= prompt[-1] and together[-1] <= prompt[-1] + reply[-1]
    assert "Nothing needs attention" in said(report)


def test_spans_mark_the_reply_and_its_end_token_as_trained(tiny: Any, tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "d.jsonl", map(chat, range(100, 130))), tiny)
    _, spans = report.examples[0]
    trained = [s for s in spans if s.trained]
    assert "".join(s.text for s in trained if not s.special).startswith("It is 1")
    assert trained[-1].special and trained[-1].text == tiny.tokenizer.convert_ids_to_tokens(tiny.info.eos[0])
    assert not any("What is" in s.text for s in trained)
    assert any("What is" in s.text for s in spans)
    shown = said(report)
    assert "\x1b[30;42mIt is 1" in shown, "trained text is black on green"


def test_without_colour_trained_text_stands_in_brackets(tiny: Any, tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "d.jsonl", map(chat, range(100, 130))), tiny)
    stream = io.StringIO()
    render(report, Console(file=stream, width=160))
    assert "[[It is 101.<|end|>]]" in stream.getvalue()
    assert stream.getvalue().count("[[") == 4, "three rows and the legend"


def test_pairs_and_multi_turn_replies_are_counted(tiny: Any, tmp_path: Path) -> None:
    rows = ({"prompt": f"q {n}", "chosen": "yes", "rejected": "no no"} for n in range(20))
    report = inspect(write(tmp_path / "d.jsonl", rows), tiny)
    assert (report.form, report.replies, report.chat) == ("preference", 40, False)
    several = [{"messages": [*chat(n)["messages"], *chat(n + 900)["messages"]]} for n in range(100, 120)]
    report = inspect(write(tmp_path / "e.jsonl", several), tiny)
    trained = [s for s in report.examples[0][1] if s.trained and s.special]
    assert len(trained) == 2, "each assistant turn ends with a trained end token"


def test_prompts_without_replies_can_be_looked_at(tiny: Any, tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "d.jsonl", ({"prompt": f"q {n}", "answer": n} for n in range(20))), tiny)
    assert (report.form, report.replies) == ("prompt", 0)
    assert "prompts only" in said(report) and "training needs a verifier" in said(report)
    assert "answer: 0" in said(report)


def test_what_is_wrong_is_counted(tiny: Any, tmp_path: Path) -> None:
    rows = [chat(n) for n in range(100, 160)]
    rows += [chat(7)] * 3  # two repetitions
    rows += [chat(8, "x" * tiny.info.context)]  # too long
    rows += [chat(9, "a\u0007b")]
    rows[0]["split"], rows[1]["split"] = "validation", "test"
    rows += [{**chat(101, "twice"), "split": "train"}]
    report = inspect(write(tmp_path / "d.jsonl", rows), tiny)
    assert (report.duplicates, report.too_long, report.control) == (2, 1, 1)
    assert report.shared == {"train and test": 1}
    assert report.repeated_prompts == 3
    problems = "\n".join(report.problems())
    assert "1 rows refused: longer than" in problems and "2 rows refused: each repeats" in problems
    assert "1 prompts refused: shared by train and test" in problems
    assert all(p.split(";")[0] in " ".join(said(report).split()) for p in report.problems())


def test_a_double_start_is_seen(tiny: Any, tmp_path: Path) -> None:
    first = tiny.tokenizer.convert_ids_to_tokens(tiny.encode(_asked("x")).ids[0])
    rows = ({"prompt": f"{first}{first}q {n}", "completion": "x"} for n in range(20))
    assert inspect(write(tmp_path / "d.jsonl", rows), tiny).double_start == 20
    rows = ({"prompt": f"{first}q {n}", "completion": "x"} for n in range(20))
    assert inspect(write(tmp_path / "e.jsonl", rows), tiny).double_start == 0


def _asked(text: str) -> Any:
    from equipoise.types import Prompt

    return Prompt("0", messages=({"role": "user", "content": text},))


def test_control_characters_never_reach_the_terminal(tiny: Any, tmp_path: Path) -> None:
    evil = "\u001b]0;owned\u0007 \u001b[2J \u202egnp.exe \u009b31m \r \u2066"
    rows = [
        {"id": f"{evil}{n}", "prompt": f"{evil} {n}", "completion": evil, f"col{evil}": "[bold]x[/bold]"}
        for n in range(20)
    ]
    path = write(tmp_path / "d.jsonl", rows)
    shown = said(inspect(path, tiny))
    for character in "\u0007\u202e\u009b\r\u2066":
        assert character not in shown
    assert "\x1b]" not in shown and "\x1b[2J" not in shown
    assert "\\x1b]0;owned" in shown, "written out instead"
    assert printable("a\tb\nc\x00") == "a\\tb\nc\\x00"


def test_faults_and_unknown_knobs_are_raised(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("{nonsense\n")
    with pytest.raises(DataError, match="not JSON"):
        inspect(str(tmp_path / "d.jsonl"), tiny)
    with pytest.raises(UnknownName, match="prompt"):
        inspect(str(tmp_path / "d.jsonl"), tiny, promt="x")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from equipoise.cli import main

    path = write(tmp_path / "d.jsonl", ({"q": f"What is {n}+1?", "a": f"{n + 1}"} for n in range(100, 130)))
    arguments = ["--model", "tiny", "--task.prompt", "q", "--task.completion", "a", "--task.chat"]
    assert main(["data", "check", path, *arguments]) == 0
    shown = capsys.readouterr().out
    assert "through the chat template" in shown and "What is" in shown
    assert main(["data", "chek", path]) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_tiny_file_is_shown_and_what_training_would_refuse_is_told(count: int, tiny: Any, tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "d.jsonl", map(chat, range(100, 100 + count))), tiny)
    assert report.rows == report.checked == report.replies == count
    assert len(report.examples) == min(count, 3)
    refused = "nothing is left for" if count < 3 else "1 validation item and 1 test item"
    assert f"training would refuse this file: {refused}" in " ".join(report.problems())
    assert "would refuse" in said(report) and "It is 101." in said(report)


def test_labelled_rows_are_counted_apart(tiny: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "a", "label": n % 3 == 0} for n in range(30)]
    report = inspect(write(tmp_path / "d.jsonl", rows), tiny)
    assert (report.rows, report.labelled_bad, report.gives) == (10, 20, ["demonstrations"])
    assert "20 rows labelled bad are left out" in said(report)
    report = inspect(write(tmp_path / "e.jsonl", [{**r, "label": False} for r in rows]), tiny)
    assert report.rows == 0 and "would refuse" in said(report)


def test_both_replies_of_a_pair_are_shown(tiny: Any, tmp_path: Path) -> None:
    rows = ({"prompt": f"q {n}", "chosen": "yes", "rejected": "no no"} for n in range(60))
    report = inspect(write(tmp_path / "d.jsonl", rows), tiny)
    titles = [title for title, _ in report.examples]
    assert titles[:2] == ["d.jsonl:1, chosen", "d.jsonl:1, rejected"]
    assert "yes" in said(report) and "no no" in said(report)


def test_a_text_prompt_for_a_chat_model_is_noted(tiny: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", ({"prompt": f"q {n}", "completion": "a"} for n in range(20)))
    assert any("--task.chat" in hint for hint in inspect(path, tiny).hints())
    assert inspect(path, tiny, chat=True).hints() == []


def test_the_methods_that_can_use_a_file() -> None:
    from equipoise.cli.data import methods

    now, judged = methods("completion", ["demonstrations"])
    assert {"sft", "dft"} <= set(now.split(", ")) and "grpo" not in now and "grpo" in judged and "mix" in judged
    (alone,) = methods("prompt", ["answers"])
    assert alone.startswith("with --task.verifier: ") and "grpo" in alone and "sft" not in alone.split(", ")
    assert "mix" not in methods("labelled", ["demonstrations"])[1].split(", ")
    assert "dpo" in methods("preference", ["pairs"])[0].split(", ")
