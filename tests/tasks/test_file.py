"""Users' files: every format, every kind of fault, splits, streaming, and what does not fit a model."""

from __future__ import annotations

import codecs
import csv
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError, DataError, TooLong
from equipoise.tasks import load
from equipoise.tasks.file import fit
from equipoise.tasks.file.splits import SHARES
from equipoise.tasks.rows import Faults, open_rows
from equipoise.tasks.splits import hash_of, split_of, text_of
from equipoise.types import ModelInfo, Prompt, Reply, Response, Task

USER = {"role": "user", "content": "hi {}"}
SAID = {"role": "assistant", "content": "yes {}"}


def turns(*pattern: Mapping[str, str], n: int) -> list[dict[str, str]]:
    return [{"role": t["role"], "content": t["content"].format(n)} for t in pattern]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(k for r in rows for k in r)))
            writer.writeheader()
            writer.writerows(
                {k: v if isinstance(v, str | bool | int) else json.dumps(v) for k, v in r.items()} for r in rows
            )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


def everything(task: Task) -> list[Prompt]:
    return sorted((p for s in task.splits.values() for p in s), key=lambda p: int(p.id.rsplit(":")[-1]))


def of(path: Path, **knobs: Any) -> Task:
    return load(f"file:{path}", **knobs)


# --- formats

SYSTEM = {"role": "system", "content": "be brief"}
FORMATS: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    # row n -> prompt, knobs, demonstration, pair (functions of n)
    "messages": (
        lambda n: {"messages": turns(SYSTEM, USER, SAID, n=n)},
        {},
        lambda n: (turns(SYSTEM, USER, n=n), f"yes {n}"),
        None,
    ),
    "multi-turn": (
        lambda n: {"messages": turns(USER, SAID, USER, SAID, n=n)},
        {},
        lambda n: (turns(USER, n=n), tuple(turns(SAID, USER, SAID, n=n))),
        None,
    ),
    "completion": (lambda n: {"prompt": f"q {n}", "completion": f"a {n}"}, {}, lambda n: (f"q {n}", f"a {n}"), None),
    "completion-turns": (
        lambda n: {"prompt": turns(USER, n=n), "completion": turns(SAID, n=n)},
        {},
        lambda n: (turns(USER, n=n), f"yes {n}"),
        None,
    ),
    "chat": (
        lambda n: {"q": f"hi {n}", "a": f"yes {n}"},
        {"prompt": "q", "completion": "a", "chat": True},
        lambda n: (turns(USER, n=n), f"yes {n}"),
        None,
    ),
    "preference": (
        lambda n: {"prompt": f"q {n}", "chosen": f"good {n}", "rejected": f"bad {n}"},
        {},
        None,
        lambda n: (f"q {n}", (f"good {n}", f"bad {n}")),
    ),
    "preference-implicit": (
        lambda n: {"chosen": turns(USER, SAID, n=n), "rejected": [*turns(USER, n=n), *turns(SAID, n=n + 1000)]},
        {},
        None,
        lambda n: (turns(USER, n=n), (f"yes {n}", f"yes {n + 1000}")),
    ),
    "alpaca": (
        lambda n: {"instruction": f"do {n}", "input": f"with {n}", "output": f"done {n}"},
        {},
        lambda n: ([{"role": "user", "content": f"do {n}\n\nwith {n}"}], f"done {n}"),
        None,
    ),
    "sharegpt": (
        lambda n: {"system": "be brief", "conversations": [{"from": "human", "value": f"hi {n}"},
                                                           {"from": "gpt", "value": f"yes {n}"}]},
        {},
        lambda n: (turns(SYSTEM, USER, n=n), f"yes {n}"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_every_kind_of_file(form: str, suffix: str, tmp_path: Path) -> None:
    make, knobs, demonstration, pair = FORMATS[form]
    task = of(write(tmp_path / f"data{suffix}", (make(n) for n in range(30))), **knobs)
    prompts = everything(task)
    assert len(prompts) == 30
    assert task.verify is None and task.summary.startswith("30 rows of data")
    for n, prompt in enumerate(prompts):
        asked, replied = (demonstration or pair)(n)
        assert (prompt.text if prompt.text is not None else [dict(m) for m in prompt.messages]) == asked
        if demonstration:
            assert task.demonstrate and task.pair is None
            assert task.demonstrate(prompt) == replied
        else:
            assert task.pair and task.demonstrate is None
            assert task.pair(prompt) == replied


def test_of_labelled_rows_the_good_ones_are_learned_from(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": f"a {n}", "label": n % 2 == 0} for n in range(30)]
    rows += [{"prompt": "q 4", "completion": "a 4", "label": False}]  # repeats a good row: no duplicate, it is left out
    task = of(write(tmp_path / "d.jsonl", rows))
    assert task.demonstrate and task.pair is None and task.verify is None
    assert [task.demonstrate(p) for p in everything(task)] == [f"a {n}" for n in range(0, 30, 2)]
    assert "15 rows" in task.summary and "16 rows labelled bad left out" in task.summary
    assert all(len(split) for split in task.splits.values())


def test_labelled_rows_are_prompts_where_a_verifier_judges(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "a", "label": n % 2 == 0, "answer": "x"} for n in range(30)]
    task = of(write(tmp_path / "d.jsonl", rows), verifier="exact")
    assert task.verify and task.demonstrate is None
    prompts = everything(task)
    assert [p.meta["label"] for p in prompts] == [n % 2 == 0 for n in range(30)]
    assert {p.meta["completion"] for p in prompts} == {"a"}


def test_a_file_of_bad_rows_alone_says_why_nothing_is_left(tmp_path: Path) -> None:
    rows = ({"prompt": f"q {n}", "completion": "a", "label": 0} for n in range(30))
    with pytest.raises(DataError, match=r"nothing is left for train.*30 rows labelled bad are left out"):
        of(write(tmp_path / "d.jsonl", rows))


def test_verl_rows_have_their_answer_and_other_columns(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "sums",
            "prompt": turns(USER, n=n),
            "reward_model": {"style": "rule", "ground_truth": str(n)},
            "extra_info": {"index": n},
        }
        for n in range(30)
    ]
    task = of(write(tmp_path / "d.parquet", rows), verifier="exact")
    prompts = everything(task)
    assert [p.answer for p in prompts] == [str(n) for n in range(30)]
    assert prompts[3].meta == {"data_source": "sums", "extra_info": {"index": 3}}
    assert task.verify and [s.value for s in task.verify(prompts[:2], ["0", "0"])] == [1.0, 0.0]


def test_answers_columns_and_a_users_function(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def close(completions, solution, level, **_):\n"
        "    return [1.0 - abs(float(c) - s) / l for c, s, l in zip(completions, solution, level)]\n"
    )
    rows = ({"question": f"q {n}", "solution": n, "level": 10} for n in range(30))
    path = write(tmp_path / "d.jsonl", rows)
    task = of(path, prompt="question", verifier=f"{tmp_path / 'rewards.py'}:close")
    prompts = everything(task)
    assert task.verify and task.close and task.demonstrate is None
    scores = task.verify(prompts[:3], ["0", "2", "x"])
    task.close()
    assert [(s.value, s.status) for s in scores[:2]] == [(1.0, "right"), (0.9, "wrong")]
    assert scores[2].status == "error" and "could not convert" in scores[2].message
    with pytest.raises(ArgumentError, match=r"needs level; the data has .*"):
        of(write(tmp_path / "e.jsonl", ({"prompt": f"q {n}", "solution": n} for n in range(9))),
           verifier=f"{tmp_path / 'rewards.py'}:close")  # fmt: skip


def test_ids_are_the_datas_own_or_the_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(f'{{"prompt": "q {n}", "completion": "a"}}\n' for n in range(9)))
    assert everything(of(path))[2].id == "d.jsonl:5", "empty lines between rows are counted"
    rows = ({"id": f"item:{n}", "prompt": f"q {n}", "completion": "a"} for n in range(9))
    assert everything(of(write(tmp_path / "e.jsonl", rows)))[2].id == "item:2"


# --- splits


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text(min_size=1).filter(str.strip), min_size=5, max_size=60))
def test_splits_are_disjoint_cover_everything_and_do_not_depend_on_order(
    tmp_path_factory: pytest.TempPathFactory, texts: set[str]
) -> None:
    distinct = list({hash_of(t): t for t in sorted(texts)}.values())
    if len(distinct) < 3:
        return
    folder = tmp_path_factory.mktemp("splits")
    found = []
    for name, order in (("a", distinct), ("b", distinct[::-1])):
        task = of(write(folder / f"{name}.jsonl", [{"prompt": t, "completion": "x"} for t in order]))
        found.append({split: {hash_of(text_of(p)) for p in prompts} for split, prompts in task.splits.items()})
        assert all(found[-1].values())
    assert found[0] == found[1]
    assert sum(map(len, found[0].values())) == len(set.union(*found[0].values())) == len(distinct)


def test_shares_are_90_5_5(tmp_path: Path) -> None:
    task = of(write(tmp_path / "d.jsonl", ({"prompt": f"q {n}", "completion": "x"} for n in range(4000))))
    assert len(task.splits["train"]) == pytest.approx(3600, abs=60)
    assert len(task.splits["validation"]) == pytest.approx(200, abs=45)
    assert task.splits["train"][-1] == list(task.splits["train"])[-1]
    assert task.splits["train"][2:4] == [task.splits["train"][2], task.splits["train"][3]]


@pytest.mark.parametrize(("count", "least"), [(3, 1), (10, 1), (11, 2), (60, 6), (100, 10), (199, 20), (300, 20)])
def test_small_files_hold_out_a_tenth_up_to_20(count: int, least: int, tmp_path: Path) -> None:
    said = [{"prompt": f"ask {n} of {count}", "completion": reply} for n in range(count) for reply in "ab"]
    task = of(write(tmp_path / "d.jsonl", said))
    held = {name: {text_of(p) for p in prompts} for name, prompts in task.splits.items()}
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == count, "replies to a prompt stay together"
    assert sum(map(len, task.splits.values())) == 2 * count
    assert held["train"] and min(len(held["validation"]), len(held["test"])) >= least
    edges = [(min(map(hash_of, held[n])), max(map(hash_of, held[n]))) for n in ("train", "validation", "test")]
    assert edges == sorted(edges) and edges[0][1] < edges[1][0] and edges[1][1] < edges[2][0]
    by_hash = [split_of(hash_of(f"ask {n} of {count}"), SHARES) for n in range(count)]
    few = min(by_hash.count("validation"), by_hash.count("test")) < least
    assert ("a small file, so they hold more than 5%" in task.summary) == few
    assert few or by_hash.count("test") == len(held["test"])


def test_a_small_file_with_its_own_test_rows_widens_validation_alone(tmp_path: Path) -> None:
    said = [{"prompt": f"q {n}", "completion": "x", "split": "test" if n < 2 else None} for n in range(40)]
    task = of(write(tmp_path / "d.jsonl", said))
    assert [p.text for p in task.splits["test"]] == ["q 0", "q 1"]
    assert len(task.splits["validation"]) == 4, "a tenth of 38, rounded up"


def test_a_split_column_and_a_test_file_are_honoured(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "x", "split": ["train", "val", "test"][n % 3]} for n in range(30)]
    task = of(write(tmp_path / "d.jsonl", rows))
    for k, name in enumerate(("train", "validation", "test")):
        assert [p.text for p in task.splits[name]] == [f"q {n}" for n in range(k, 30, 3)]
    held = write(tmp_path / "test.csv", ({"prompt": f"held {n}", "completion": "x"} for n in range(7)))
    plain = write(tmp_path / "e.jsonl", ({"prompt": f"q {n}", "completion": "x"} for n in range(200)))
    task = of(plain, test=str(held))
    assert [p.text for p in task.splits["test"]] == [f"held {n}" for n in range(7)]
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 200
    assert len(task.splits["validation"]) > 0
    some = [{"prompt": f"q {n}", "completion": "x", "split": "train" if n else "test"} for n in range(100)]
    task = of(write(tmp_path / "f.jsonl", some))
    assert [p.text for p in task.splits["test"]] == ["q 0"]
    assert len(task.splits["validation"]) > 0 and "validation by hash" in task.summary


def test_leaks_and_duplicates_are_refused_dropped_or_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "x"} for n in range(20)]
    rows += [{"prompt": " Q  3", "completion": "x"}, {"prompt": "q 4", "completion": "another reply"}]
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=r"1 duplicate rows, .*line 21 \(as 4\)\nfix: .*drop.*keep"):
        of(path)
    assert len(everything(of(path, duplicates="drop"))) == 21
    assert len(everything(of(path, duplicates="keep"))) == 22
    questions = write(tmp_path / "q.jsonl", ({"prompt": f"q {n % 9}", "answer": n} for n in range(10)))
    with pytest.raises(DataError, match="1 duplicate prompts"):
        of(questions, verifier="exact")
    held = write(tmp_path / "t.jsonl", [{"prompt": "Q 7", "completion": "y"}])
    clean = write(tmp_path / "e.jsonl", rows[:20])
    with pytest.raises(
        DataError, match=r"1 rows of (train|validation) whose prompt is also in test: line 8 of e.jsonl"
    ):
        of(clean, test=str(held))
    task = of(clean, test=str(held), duplicates="drop")
    assert len(everything(task)) == 20
    assert "q 7" not in [p.text for s in ("train", "validation") for p in task.splits[s]]


# --- faults


def test_several_faults_are_reported_together_with_counts(tmp_path: Path) -> None:
    good = [json.dumps({"id": n, "prompt": f"q {n}", "completion": "x"}).encode() for n in range(9)]
    bad = [
        b'{"prompt": "cut off',
        b"[1, 2]",
        b'{"prompt": "caf\xe9", "completion": "x"}',
        b'{"prompt": 7, "completion": "x"}',
        b'{"prompt": "q", "completion": "   "}',
        b'{"prompt": "q", "answer": "42"}',
        b'{"text": "x"}',
        b'{"id": 3, "prompt": "q 33", "completion": "x"}',
        b'{"prompt": "q 34", "completion": "x", "split": "held-out"}',
    ]
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\n".join(good + bad))
    with pytest.raises(DataError) as caught:
        of(path)
    said = str(caught.value)
    for words in (
        "9 faults in 18 rows",
        "1 x not JSON\n    line 10: Unterminated string starting at (character 12)",
        "line 11: got list: '[1, 2]'",
        "1 x not UTF-8\n    line 12: byte 0xe9 at position 15",
        "2 x malformed completion row\n    line 13: column prompt: int 7, expected text or a list of turns",
        "line 14: column completion: empty text, expected some text",
        "line 15: format prompt (columns prompt, answer) in a completion file",
        "line 16: columns text",
        "line 17: column id: '3' as in line 4",
        "line 18: column split: 'held-out'",
        "fix: save the file as UTF-8",
    ):
        assert words in said, said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.jsonl", b"", "empty (0 bytes)"),
        ("d.jsonl", b"\n\n \n", "no rows"),
        ("d.jsonl", "\ufeff".encode("utf-16-le") + "{}".encode("utf-16-le"), "UTF-16"),
        ("d.json", b"[]", "no rows"),
        ("d.json", b'[{"prompt": "q"},\n {"prompt": "r",}]', "line 2: Expecting property name"),
        ("d.json", b'[{"prompt": "q"} {"prompt": "r"}]', "line 1: expected ',' or ']' (character 18): '{\"prompt"),
        ("d.json", b'[{"prompt": "q"}', "expected ',' or ']'"),
        ("d.json", b'[{"prompt": "q"},', "Expecting value"),
        ("d.json", b"[" * 100_000, "row 1: lists or objects nested too deeply"),
        ("d.json", b'[{"prompt": "q"}]\n{"prompt": "r"}', "line 2: text after the end of the list"),
        ("d.json", b'[{"prompt": "q"},\n 3, "x"]', "row 2: got int: '3'\n    row 3: got str"),
        ("d.json", b'[{"prompt": "q"},\n {"prompt": "caf\xe9"}]', "line 2: byte 0xe9"),
        ("d.json", b'{\n "prompt": "q"\n}', "or one list of objects in the whole file"),
        ("d.csv", b"prompt,completion\n", "only empty lines, a header"),
        ("d.csv", b"prompt,completion\na,b,c\n", "line 2: 3 cells where the header names 2"),
        ("d.csv", b'prompt,completion\n"a"b,c\n', "not CSV"),
        ("d.parquet", b"PAR1 but not really PAR1", "cannot be read as Parquet"),
        ("d.txt", b"hello", "known: .jsonl"),
        ("d.jsonl.gz", b"\x1f\x8b", "unpack it first"),
        ("d.jsonl", b'{"prompt": "q"}\n', "nothing to learn from"),
        ("d.jsonl", b'{"prompt": "q", "completion": "x"}\n', "three distinct prompts"),
        ("d.jsonl", b'{"messages": [{"role": "assistant", "content": "x"}]}\n', "expected a user turn before it"),
        ("d.jsonl", b'{"messages": [{"role": "user"}]}\n', "column messages[0].content: nothing, expected text"),
        ("d.jsonl", b'{"prompt": "q", "completion": [{"role": "assistant", "content": "x"}]}\n', "the prompt is text"),
        ("d.jsonl", b'{"prompt": "q", "completion": "x", "label": "maybe"}\n', "column label: 'maybe'"),
    ],
)
def test_each_fault_says_what_where_and_how_to_fix_it(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        of(path)
    assert words in str(caught.value) and name in str(caught.value)


def test_missing_file_missing_answers_and_contradictory_knobs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        of(tmp_path / "nowhere.jsonl")
    path = write(tmp_path / "d.jsonl", ({"prompt": f"q {n}", **({"answer": n} if n else {})} for n in range(9)))
    with pytest.raises(DataError, match="1 x no answer for the verifier\n    line 1: column answer"):
        of(path, verifier="exact")
    with pytest.raises(ArgumentError, match=r"no --task.verifier"):
        of(write(tmp_path / "e.jsonl", ({"prompt": f"q {n}", "completion": "x"} for n in range(9))), answer_regex="x")
    with pytest.raises(ArgumentError, match="refuse, drop, truncate"):
        of(path, long="cut")
    with pytest.raises(ArgumentError, match="expected a JSON file or a JSON object"):
        of(path, verifier="json-schema", schema="nowhere.json")


def test_a_100_mb_line_is_a_fault_and_its_neighbours_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with path.open("wb") as file:
        for n in range(5):
            file.write(json.dumps({"prompt": f"q {n}", "completion": "x"}).encode() + b"\n")
        file.write(b'{"prompt": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'", "completion": "x"}\n')
        file.write(b'{"prompt": "cut off\n')
    with pytest.raises(DataError) as caught:
        of(path)
    assert "line 6: 104,857,634 bytes, more than 16,777,216" in str(caught.value)
    assert "line 7: Unterminated string" in str(caught.value)


def test_a_file_that_changes_while_in_use_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", ({"prompt": f"q {n}", "completion": "x"} for n in range(9)))
    task = of(path)
    before = task.fingerprint
    write(path, ({"prompt": f"p {n}", "completion": "xy"} for n in range(9)))
    with pytest.raises(DataError, match="was changed while it was in use"):
        task.splits["train"][0]
    assert of(path).fingerprint != before


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())), min_size=1, max_size=8),
    indent=st.none() | st.integers(0, 2),
    ascii=st.booleans(),
    around=st.sampled_from([b"", b"\n ", codecs.BOM_UTF8]),
)
def test_a_json_list_is_read_as_json_reads_it(
    rows: list[dict[str, Any]], indent: int | None, ascii: bool, around: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("list") / "d.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    try:
        path.write_bytes(around + text.encode() + b"\r\n")
    except UnicodeEncodeError:  # half a surrogate pair, which no UTF-8 file can hold
        return
    faults = Faults(path)
    opened = open_rows(path)
    scanned = list(opened.scan(faults))
    assert not faults.counts
    assert scanned == rows == [opened[i] for i in range(len(opened))]
    assert [opened.number(i) for i in range(len(opened))] == list(range(1, len(rows) + 1))


def test_a_json_list_above_its_bound_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equipoise.tasks.rows.LIST_MB", 1)
    path = write(tmp_path / "d.json", ({"prompt": f"q {n}", "completion": "x" * 1000} for n in range(2500)))
    with pytest.raises(DataError, match=r"one JSON list of 2 MB.*up to 1 MB.*\n?.*jq -c '.\[\]' d.json > d.jsonl"):
        of(path)


# --- streaming

STREAM = """
    import random, re, resource, sys
    from pathlib import Path
    from equipoise.tasks import load

    task = load("file:" + sys.argv[1])
    train = task.splits["train"]
    for i in random.Random(0).sample(range(len(train)), 200):
        assert task.demonstrate(train[i]).endswith(train[i].text.split()[-1]), i
    if sys.platform == "linux":  # ru_maxrss would include the parent's at the fork
        peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
    print(len(train), peak)
"""


def peak_mb(path: Path) -> tuple[int, int]:
    """Rows of train, and the peak memory (MB) of a process that reads the file and 200 of its rows."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STREAM), str(path)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    rows, peak = run.stdout.split()
    return int(rows), int(peak)


@pytest.mark.slow
def test_a_file_of_1_gb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    filler = "lorem ipsum dolor sit amet " * 150
    with path.open("w") as file:
        for n in range(250_000):
            file.write(f'{{"prompt": "question number {n}", "completion": "{filler} {n}"}}\n')
    assert path.stat().st_size > 1_000_000_000
    begin = time.monotonic()
    rows, peak = peak_mb(path)
    print(f"1 GB: {rows} rows, {peak} MB, {time.monotonic() - begin:.1f} s")
    path.unlink()
    assert rows == pytest.approx(225_000, abs=2_000)
    assert peak < 250, f"{peak} MB for a file of 1 GB"


def test_a_parquet_file_of_one_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    filler = ["".join(map(chr, rng.integers(97, 122, 4000))) for _ in range(100)]
    n = 50_000
    table = pa.table(
        {
            "prompt": [f"question number {i}" for i in range(n)],
            "completion": pa.array((f"{filler[i % 100][i % 997 :]} {i}" for i in range(n)), pa.string()),
        }
    )
    path = tmp_path / "big.parquet"
    pq.write_table(table, path, row_group_size=n, use_dictionary=False, compression="NONE")
    assert path.stat().st_size > 150_000_000
    rows, peak = peak_mb(path)
    assert rows == pytest.approx(45_000, abs=700)
    assert peak < 170, f"{peak} MB for a file of 170 MB"


# --- what fits a model


class Letters:
    """An engine that reads one token per character, ten for a template and one at each turn's end."""

    def __init__(self, context: int) -> None:
        self.info = ModelInfo("letters", None, 0, 0, 0, 0, 0, 0, 256, context, (0,), "float32", "cpu")

    def encode(self, prompt: Prompt) -> Prompt:
        text = prompt.text if prompt.text is not None else "".join(str(m["content"]) + "." for m in prompt.messages)
        size = len(text) + (10 if prompt.messages else 0)
        if size >= self.info.context:
            raise TooLong(f"{size}")
        return Prompt(prompt.id, prompt.messages, prompt.text, prompt.answer, prompt.meta, ids=tuple([1] * size))

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        size = len(reply) + 1 if isinstance(reply, str) else sum(len(str(t["content"])) + 1 for t in reply)
        if len(prompt.ids or ()) + size > self.info.context:
            raise TooLong("reply")
        on = np.ones(size, dtype=np.bool_)
        return Response(np.ones(size, dtype=np.int64), None, on, on.astype(np.int32), "")


def lengths(task: Task, engine: Letters) -> list[int]:
    found = []
    for prompt in everything(task):
        encoded = engine.encode(prompt)
        reply = task.demonstrate(encoded) if task.demonstrate else ""
        assert reply is not None
        found.append(len(encoded.ids or ()) + len(engine.encode_reply(encoded, reply, "demonstration").ids))
    return found


def test_over_long_rows_are_refused_dropped_or_shortened(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n:02d} " + "long " * (40 if n % 10 == 3 else 2), "completion": "x" * 20} for n in range(30)]
    task = of(write(tmp_path / "d.jsonl", rows))
    engine: Any = Letters(100)
    with pytest.raises(DataError, match=r"3 of 30 rows do not fit.*100 tokens that letters reads.*d.jsonl:(4|14|24)"):
        fit(task, engine)
    dropped = fit(task, engine, "drop")
    assert len(everything(dropped)) == 27 and "3 over-long rows dropped" in dropped.summary
    cut = fit(task, engine, "truncate")
    assert len(everything(cut)) == 30
    assert sorted(lengths(cut, engine))[-3:] == [100, 100, 100], "as much as fits, and no more"
    shortened = everything(cut)[3]
    assert rows[3]["prompt"].endswith(str(shortened.text)) and shortened.meta["completion"] == "x" * 20
    assert fit(task, Letters(5000), "refuse") is task  # type: ignore[arg-type]


def test_shortening_drops_the_oldest_turns_first_and_never_cuts_a_reply(tmp_path: Path) -> None:
    def row(n: int) -> Mapping[str, Sequence[Mapping[str, str]]]:
        past = [{"role": r, "content": f"{n:02d} " + "old " * 5} for r in ("user", "assistant")]
        prompt = [
            {"role": "system", "content": "sys"},
            *(past if n == 7 else []),
            {"role": "user", "content": f"new {n}"},
        ]
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": "x" * 20}]}

    engine: Any = Letters(60)
    task = of(write(tmp_path / "d.jsonl", map(row, range(20))))
    prompt = everything(fit(task, engine, "truncate"))[7]
    assert [m["content"] for m in prompt.messages] == ["sys", "new 7"]
    rows = ({"prompt": f"q {n}", "completion": "x" * (80 if n == 5 else 2)} for n in range(20))
    hopeless = of(write(tmp_path / "e.jsonl", rows))
    with pytest.raises(DataError, match=r"1 of 20 rows do not fit.*replies are never cut.*e.jsonl:6"):
        fit(hopeless, engine, "truncate")
    assert len(everything(fit(hopeless, engine, "drop"))) == 19


def test_sampled_replies_need_room_too(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", ({"prompt": f"q {n} " + "x" * n, "answer": "1"} for n in range(30)))
    task = of(path, verifier="exact", max_new_tokens=64)
    with pytest.raises(DataError, match="3 of 30 rows do not fit: prompts with replies of up to 64 tokens"):
        fit(task, Letters(95))  # type: ignore[arg-type]
