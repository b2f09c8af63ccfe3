"""Verifiers: the five statuses, users' functions that misbehave, and processes that never outlive their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from equipoise.errors import ArgumentError, UnknownName, VerifierFailure
from equipoise.types import Prompt, Score
from equipoise.verify import check_failures, failed, named
from equipoise.verify.pool import Pool, Settings
from equipoise.verify.verdicts import Item

REWARDS = """
import os, re, signal, subprocess, sys, time
from dataclasses import dataclass

@dataclass
class Wanted:  # a dataclass looks up the module that it is defined in
    length: "int" = 3

def plain(prompts, completions, answer, **columns):
    print("chatter on stdout must not disturb the protocol")
    return [float(c == a) for c, a in zip(completions, answer)]

def chat(prompts, completions, answer):
    assert prompts[0][-1]["role"] == "user"
    return [float(c[0]["content"] == a) for c, a in zip(completions, answer)]

async def later(completions, **columns):
    return [1.0] * len(completions)

def column(completions, wanted):
    return [float(w in c) for c, w in zip(completions, wanted)]

def odd(completions, **columns):
    def one(c):
        if c == "hang":
            re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter lock
        if c == "sleep":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", os.environ["MARK"]])
            time.sleep(60)
        if c == "raise":
            raise ValueError("no such unit")
        if c == "exit":
            sys.exit(3)
        if c == "die":
            print("last words", flush=True)
            os._exit(3)
        if c == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"none": None, "nan": float("nan"), "inf": float("inf"), "string": "0.5", "list": [1]}.get(c, 0.25)
    return [one(c) for c in completions]

def short(completions, **columns):
    return [1.0]

def text(completions, **columns):
    return "ab"

def nothing(completions, **columns):
    return None
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


def prompts(*answers: object) -> list[Prompt]:
    return [Prompt(str(i), text="q", answer=a) for i, a in enumerate(answers)]


def judge(name: str, answers: list[object], texts: list[str], **knobs: object) -> list[Score]:
    with named(name, **knobs) as verifier:  # type: ignore[arg-type]
        return verifier.verify(prompts(*answers), texts)


def outcome(scores: list[Score]) -> list[tuple[float, str]]:
    return [(s.value, s.status) for s in scores]


def test_exact_ignores_case_spacing_quotes_and_full_stop() -> None:
    scores = judge("exact", ["New York"] * 4, [' "new  YORK". ', "New York City", "", "Boston"])
    assert outcome(scores) == [(1, "right"), (0, "wrong"), (0, "unparsed"), (0, "wrong")]
    assert scores[0].answer == "new york"
    assert outcome(judge("exact", [["a", "b"], 7], ["B", "7"])) == [(1, "right"), (1, "right")]


def test_answer_regex_takes_the_last_match_and_its_first_group() -> None:
    texts = ["<a>1</a> no: <a>2</a>", "2", "<a>1</a>"]
    scores = judge("exact", [2, 2, 2], texts, answer_regex="<a>(.*?)</a>")
    assert outcome(scores) == [(1, "right"), (0, "unparsed"), (0, "wrong")]


def test_regex_finds_the_rows_pattern_and_reports_a_broken_one() -> None:
    scores = judge("regex", [r"\d{3}", r"\d{3}", "("], ["call 555", "call 55", "x"])
    assert outcome(scores) == [(1, "right"), (0, "wrong"), (0, "error")]
    assert "no regular expression" in scores[2].message


def test_math_verify_knows_equal_mathematics() -> None:
    answers: list[object] = ["1/2", r"\frac{1}{2}", "so it is\n#### 42", "x+1", "", "1/2"]
    texts = ["It is $0.5$.", r"\boxed{\frac{2}{4}}", "The answer is 42", "$1+x$", "3", "no idea"]
    scores = judge("math-verify", answers, texts)
    assert outcome(scores[:4]) == [(1, "right")] * 4
    assert scores[4].status == "error", "an unreadable gold answer is the data's fault, never a reward of 0"
    assert outcome(scores[5:]) == [(0, "unparsed")]


def test_math_verify_hang_is_a_timeout_and_the_next_item_is_judged() -> None:
    scores = judge("math-verify", ["2", "2"], ["$9^{9^{9^{9^9}}}$", "2"], deadline_s=2.0)
    assert scores[0].status in ("timeout", "error") and outcome(scores)[1] == (1, "right")


def test_json_schema() -> None:
    schema = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}
    texts = ['{"name": "x", "age": 3}', 'Sure:\n```json\n{"name": 1}\n```', '{"age": 3}', "{name: x}", "[" * 100_000]
    scores = judge("json-schema", [None] * 5, texts, schema=schema)
    assert [s.status for s in scores] == ["right", "right", "wrong", "unparsed", "unparsed"]
    assert judge("json-schema", [{"type": "integer"}], ["3"])[0].status == "right", "a row's answer is its schema"
    assert judge("json-schema", [{"type": "nonsense"}], ["3"])[0].status == "error"


def test_unknown_names_and_modules_say_what_is_wrong(rewards: Path) -> None:
    with pytest.raises(UnknownName, match="exact"):
        named("exacct")
    with pytest.raises(ArgumentError, match="no function called 'plane'"):
        named(f"{rewards}:plane")
    with pytest.raises(ArgumentError, match=r"No module named 'nowhere'"):
        named("nowhere:f")
    with pytest.raises(ArgumentError, match=r"needs wanted; the data has .*answer_key"):
        named(f"{rewards}:column", columns=["answer_key"])


def test_user_functions_get_the_usual_arguments(rewards: Path) -> None:
    assert outcome(judge(f"{rewards}:plain", ["a", "a"], ["a", "b"])) == [(1, "right"), (0, "wrong")]
    assert outcome(judge(f"{rewards}:later", ["a"], ["x"])) == [(1, "right")]
    turn = Prompt("0", messages=({"role": "user", "content": "q"},), answer="a", meta={"wanted": "yes"})
    with named(f"{rewards}:chat") as verifier:
        assert outcome(verifier.verify([turn], ["a"])) == [(1, "right")]
    with named(f"{rewards}:column", columns=["wanted"]) as verifier:
        plain = Prompt("0", text="q", meta={"wanted": "yes"})
        assert outcome(verifier.verify([plain], ["oh yes"])) == [(1, "right")]


def test_odd_returns_are_errors_that_name_them(rewards: Path) -> None:
    scores = judge(f"{rewards}:odd", [None] * 5, ["none", "nan", "inf", "string", "list"])
    assert {s.status for s in scores} == {"error"}
    assert [m.message.split(",")[0] for m in scores[1:]] == [
        "returned nan",
        "returned inf",
        "returned '0.5' (str)",
        "returned [1] (list)",
    ]
    assert len(failed(scores)) == 4, "None means: does not apply; it is no failure"
    for function, said in {"short": "returned 1 values for 2", "text": "'ab'", "nothing": "None"}.items():
        scores = judge(f"{rewards}:{function}", [None] * 2, ["a", "b"])
        assert all(s.status == "error" and said in s.message for s in scores)


def test_only_the_guilty_reply_fails(rewards: Path) -> None:
    texts = ["ok", "hang", "raise", "ok", "exit", "die", "segv", "ok"]
    scores = judge(f"{rewards}:odd", [None] * 8, texts, deadline_s=1.0)
    said = ["", "more than 1 s", "ValueError: no such unit", "", "SystemExit: 3", "exit code 3", "SIGSEGV", ""]
    statuses = ["wrong", "timeout", "error", "wrong", "error", "error", "error", "wrong"]
    assert [s.status for s in scores] == statuses
    for score, words in zip(scores, said, strict=True):
        assert words in score.message
    assert "last words" in scores[5].message
    assert [s.value for s in scores if s.status == "wrong"] == [0.25] * 3


def test_results_do_not_depend_on_the_number_of_workers(rewards: Path) -> None:
    answers: list[object] = [str(i % 3) for i in range(50)]
    texts = [str(i % 2) for i in range(50)]
    one, three = (judge(f"{rewards}:plain", answers, texts, workers=n) for n in (1, 3))
    assert one == three
    assert [s.value for s in one] == [float(i % 3 == i % 2) for i in range(50)]


def test_a_function_that_always_hangs_is_given_up_soon(rewards: Path) -> None:
    begin = time.monotonic()
    settings = Settings(deadline_s=0.3, patience=3)
    with Pool(f"{rewards}:odd", {}, settings) as pool:
        verdicts = pool([Item("q", "hang")] * 200)
    assert {v.status for v in verdicts} == {"timeout"}
    assert "not tried" in verdicts[-1].message
    assert time.monotonic() - begin < 10


def test_check_failures_stops_past_one_percent_and_not_before() -> None:
    check_failures(seen=64, failures=2)  # 3%, but two are too few to tell
    check_failures(seen=300, failures=3)  # exactly 1%
    with pytest.raises(VerifierFailure, match=r"3 of 299 responses \(1.0%\).*\n  boom\n.*resume"):
        check_failures(seen=299, failures=3, messages=["boom", "boom", ""])


def processes(mark: str) -> list[int]:
    """Process ids whose environment or command carries ``mark``."""
    listing = ["ps", "axeww", "-o", "pid=,command="]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if mark in line]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"equipoise-test-{os.getpid()}-{tmp_path.name}"
    monkeypatch.setenv("MARK", name)
    yield name
    for pid in processes(name):
        os.kill(pid, signal.SIGKILL)


def gone(mark: str, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return not processes(mark)


def test_a_killed_call_leaves_no_children_behind(rewards: Path, mark: str) -> None:
    with named(f"{rewards}:odd", deadline_s=1.0) as verifier:
        assert verifier.verify(prompts(None), ["sleep"])[0].status == "timeout"
        assert gone(mark, 2)
        assert verifier.verify(prompts(None), ["ok"])[0].value == 0.25, "a fresh worker takes the place"
        assert processes(mark)
    assert gone(mark, 2)
    with pytest.raises(RuntimeError, match="closed"):
        verifier.verify(prompts(None), ["ok"])


PARENT = """
    import sys, threading, time
    from equipoise.types import Prompt
    from equipoise.verify import named

    verifier = named(sys.argv[1], deadline_s=2.0)
    print("loaded", flush=True)
    if sys.argv[2] == "hang":
        verifier.verify([Prompt("0", text="q")], ["hang"])
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize(("mode", "kill"), [("end", False), ("wait", True), ("hang", True)])
def test_workers_do_not_outlive_their_owner(rewards: Path, mark: str, mode: str, kill: bool) -> None:
    """At a normal end without close, and after kill -9, even in the middle of a call that holds the lock."""
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), f"{rewards}:odd", mode], stdout=subprocess.PIPE
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"loaded\n"
    assert mode == "end" or len(processes(mark)) >= 2
    if kill:
        time.sleep(0.5)
        owner.kill()
    owner.wait(timeout=10)
    owner.stdout.close()
    assert gone(mark, 6)
