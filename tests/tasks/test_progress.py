"""Progress of reading: told where it takes long, in order, to whoever listens; silent otherwise."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_file import Letters, write

from equipoise.tasks import load, progress
from equipoise.tasks.file import fit
from equipoise.tasks.progress import heard_by, watched


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WAIT_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)


def rows(n: int) -> dict[str, Any]:
    return {"prompt": f"q {n} " + "x" * 50, "completion": "yes"}


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
def test_reading_splitting_and_measuring_a_file_are_told_in_order(name: str, tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / name, map(rows, range(300)))
    heard: list[Mapping[str, Any]] = []
    engine: Any = Letters(64)
    with heard_by(heard.append):
        fit(load(f"file:{path}"), engine)
    whats = list(dict.fromkeys(e["what"] for e in heard))
    first = [f"unpacking {name}"] if name.endswith("parquet") else []
    assert whats == [*first, f"reading {name}", f"splitting {name}", f"fingerprint of {name}",
                     f"measuring long rows of {name}"]  # fmt: skip
    for what in whats[:-1]:
        done = [e["done"] for e in heard if e["what"] == what]
        assert done == sorted(done), what
        assert all(e["event"] == "reading" and 0 <= e["done"] <= e["total"] for e in heard if e["what"] == what)
    reading = [e for e in heard if e["what"] == f"reading {name}"]
    assert len(reading) == 300 and reading[-1]["done"] > 0.9 * reading[-1]["total"]


def test_quick_work_and_no_terminal_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.jsonl", map(rows, range(300)))
    heard: list[Mapping[str, Any]] = []
    with heard_by(heard.append):
        load(f"file:{path}")
    assert not heard
    progress.WAIT_S, kept = 0.0, progress.WAIT_S
    try:
        load(f"file:{path}")
    finally:
        progress.WAIT_S = kept
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(watched(iter(range(5)), "counting", 5)) == list(range(5))
    assert "counting" in terminal.getvalue()


def test_listeners_are_forgotten_and_faults_pass(at_once: None) -> None:
    heard: list[Any] = []
    with pytest.raises(ZeroDivisionError), heard_by(heard.append):
        for i in watched(range(3), "dividing", 3):
            json.dumps(1 / (2 - i))
    assert [e["done"] for e in heard] == [0, 1, 2]
    list(watched(range(3), "later", 3))
    assert len(heard) == 3
