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
    report = inspect(write(tmp_path / "d.jsonl", map(chat, range(100, 160))), tiny)
    assert (report.form, report.rows, report.checked, report.replies) == ("messages", 60, 60, 60)
    assert sum(report.splits.values()) == 60 and report.columns == ["source"]
    assert report.problems() == []
    prompt, reply, together = (report.lengths[k] for k in ("prompt", "reply", "together"))
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
    assert "no replies to end" in said(report)


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
    assert "1 rows longer than" in problems and "2 rows that repeat" in problems
    assert "1 prompts shared by train and test" in problems
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
