"""Every procedural task: splits, demonstrations, verdicts, knobs. And the registry."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from equipoise import tasks
from equipoise.cli import options
from equipoise.errors import ArgumentError, UnknownName
from equipoise.tasks import countdown, knights, lists, splits
from equipoise.types import Prompt, Task

CASES = [(name, difficulty) for name in ("addition", "countdown", "lists", "knights") for difficulty in (1, 2, 3)]
JUNK = ["", "   ", "I do not know.", "\x00\x1b[31m", "((((" * 500, "9" * 5000, "=", "none of it", "42 + ", "A=knight"]


def load(name: str, difficulty: int) -> Task:
    return tasks.load(name, difficulty=difficulty, train=300, validation=200, test=500)


def one(text: str, answer: object, **meta: object) -> Prompt:
    return Prompt("x", ({"role": "user", "content": text},), answer=answer, meta=meta)


@pytest.mark.parametrize(("name", "difficulty"), CASES)
def test_splits_are_disjoint_unique_and_long_enough(name: str, difficulty: int) -> None:
    task = load(name, difficulty)
    seen = {s: {splits.normalise(splits.text_of(p)) for p in task.splits[s]} for s in ("train", "validation", "test")}
    for a, b in itertools.combinations(seen, 2):
        assert not seen[a] & seen[b]
    for split, texts in seen.items():
        assert len(texts) == len(task.splits[split]), "a prompt twice in one split"
        assert len({p.id for p in task.splits[split]}) == len(texts)
        assert all(splits.split_of(splits.hash_of(text)) == split for text in texts)
    if (name, difficulty) != ("addition", 1):  # one digit: 100 questions in all
        assert [len(task.splits[s]) for s in ("train", "validation", "test")] == [300, 200, 500]


@pytest.mark.parametrize(("name", "difficulty"), CASES)
def test_demonstrations_are_right_and_fit(name: str, difficulty: int) -> None:
    task = load(name, difficulty)
    assert task.verify and task.demonstrate
    prompts = [p for split in ("train", "validation", "test") for p in task.splits[split]]
    shown = [str(task.demonstrate(p)) for p in prompts]
    verdicts = task.verify(prompts, shown)
    assert {(s.status, s.value) for s in verdicts} == {("right", 1.0)}
    assert max(map(len, shown)) < 200


@pytest.mark.parametrize(("name", "difficulty"), CASES)
def test_junk_is_never_right_and_never_fails(name: str, difficulty: int) -> None:
    task = load(name, difficulty)
    assert task.verify
    for text in JUNK:
        for score in task.verify(task.splits["test"][:3], [text] * 3):
            assert score.value == 0.0 and score.status in ("wrong", "unparsed")
            assert (score.answer is None) == (score.status == "unparsed")


@pytest.mark.parametrize(("name", "difficulty"), CASES)
def test_another_prompts_answer_is_mostly_wrong(name: str, difficulty: int) -> None:
    task = load(name, difficulty)
    assert task.verify and task.demonstrate
    prompts = list(task.splits["train"])
    swapped = [str(task.demonstrate(p)) for p in [*prompts[1:], prompts[0]]]
    assert sum(s.value for s in task.verify(prompts, swapped)) < 0.2 * len(prompts)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_a_task_is_a_function_of_its_knobs(name: str) -> None:
    first, again, other = load(name, 1), load(name, 1), load(name, 2)
    assert list(first.splits["test"]) == list(again.splits["test"])
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert tasks.load(name, train=7).fingerprint != tasks.load(name, train=8).fingerprint
    # A larger split begins with the smaller one, so that a size never moves an item.
    assert list(tasks.load(name, test=20).splits["test"])[:10] == list(tasks.load(name, test=10).splits["test"])


def test_splits_ignore_case_spacing_and_compatibility_forms() -> None:
    assert splits.hash_of("What  is\n１+2? ") == splits.hash_of("what is 1+2?")
    assert splits.hash_of("What is 12+3?") != splits.hash_of("What is 1+23?")


def test_split_shares_are_met_and_the_edges_belong_somewhere() -> None:
    drawn = [splits.split_of(splits.hash_of(str(i))) for i in range(20_000)]
    for split, share in splits.SHARES.items():
        assert abs(drawn.count(split) / len(drawn) - share) < 0.015  # four standard errors
    assert splits.split_of(0) == "train" and splits.split_of(2**64 - 1) == "pretrain"


def test_addition_by_hand() -> None:
    task = tasks.load("addition", difficulty=3)
    assert task.verify and task.demonstrate
    prompt = one("What is 357+468?", 825, a=357, b=468)
    assert task.demonstrate(prompt) == "7+8=15, 5+6+1=12, 3+4+1=8: 825"
    texts = ["825", "it is 825.", "0825", "7+8=15, 5+6+1=12, 3+4+1=8: 826", "no idea"]
    verdicts = task.verify([prompt] * 5, texts)
    assert [s.status for s in verdicts] == ["right", "right", "right", "wrong", "unparsed"]
    assert [s.answer for s in verdicts] == ["825", "825", "825", "826", None]
    judged = task.verify([prompt] * 3, ["7+8=15, 5+6+1=12, 3+4+1=8: 825", texts[3], "7+8=15, 5+6+1=12, 3+4+1=8"])
    assert [(s.parts["scratch"], s.parts["work"]) for s in judged] == [(1, 1), (0, 1), (0, 0)]


def test_lists_by_hand() -> None:
    task = tasks.load("lists")
    assert task.verify
    prompt = one("Sort: 4 9 2 7", "2 4 7 9")
    texts = ["2 4 7 9", "[2, 4, 7, 9]", "2 4 7 9.", "2 4 9 7", "2 4 7", "sorted: 2 4 7 9", "none"]
    assert [s.status for s in task.verify([prompt] * 7, texts)] == [*["right"] * 3, *["wrong"] * 2, "unparsed", "wrong"]
    assert task.verify([one("Keep the even: 1 3", "none")], ["None."])[0].status == "right"


def test_every_operation_by_hand() -> None:
    expected = {
        "sort": "2 2 4 7 9",
        "descending": "9 7 4 2 2",
        "reverse": "2 7 2 9 4",
        "max": "9",
        "min": "2",
        "sum": "24",
        "count": "5",
        "unique": "4 9 2 7",
        "even": "4 2 2",
        "odd": "9 7",
        "rotate": "9 2 7 2 4",
        "double": "8 18 4 14 4",
    }
    assert {name: lists.shown(f([4, 9, 2, 7, 2])) for name, (_, f) in lists.OPERATIONS.items()} == expected


def test_lists_of_one_operation() -> None:
    prompts = tasks.load("lists", operation="reverse", test=50).splits["test"]
    assert all(splits.text_of(p).startswith("Reverse: ") for p in prompts)
    with pytest.raises(UnknownName, match="reverse"):
        tasks.load("lists", operation="revers")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("9*2+4", "right"),
        ("(4 + (9*2)) = 22", "right"),
        ("4+2*9=23", "right"),  # what is claimed after "=" does not matter
        ("9+4+2", "wrong"),  # 15
        ("22", "wrong"),  # not the given numbers
        ("9*2+2+2", "wrong"),  # 2 three times, no 4
        ("9*2+4*1", "wrong"),  # 1 was not given
        ("9/(4-4)", "wrong"),
        ("-4+9*2", "unparsed"),
        ("9**2+4", "unparsed"),
        ("9*2+04", "unparsed"),
        ("__import__('os')", "unparsed"),
        ("9*2+", "unparsed"),
    ],
)
def test_countdown_by_hand(text: str, status: str) -> None:
    prompt = one("Make 22 from 4 9 2.", 22, numbers=(4, 9, 2))
    assert countdown.verify(prompt, text).status == status


def test_countdown_divides_exactly() -> None:
    prompt = one("Make 24 from 3 8 3 8.", 24, numbers=(3, 8, 3, 8))
    assert countdown.verify(prompt, "8/(3-8/3)").status == "right"


def test_knights_by_hand() -> None:
    # A knight K would make M a knave who truly says that they differ. So K lies, M is a knight, and they do differ.
    said = [("K", "{x} is a knave", "M", "K"), ("M", "{x} and {y} differ", "K", "M")]
    assert knights.solutions(["K", "M"], said) == [{"K": False, "M": True}]
    prompt = one("...", "K=knave M=knight", people=("K", "M"))
    texts = [
        "K=knave M=knight",
        "M is a knight, K is a knave.",
        "K=knight M=knave",
        "K=knave",
        "K=knave M=knight K=knave",
    ]
    statuses = [knights.verify(prompt, text).status for text in texts]
    assert statuses == ["right", "right", "wrong", "unparsed", "unparsed"]
    assert knights.verify(prompt, texts[1]).answer == "K=knave M=knight"


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="addition"):
        tasks.load("adition")
    with pytest.raises(UnknownName, match="difficulty"):
        tasks.load("addition", dificulty=2)
    with pytest.raises(ArgumentError, match="from 1 to 12"):
        tasks.load("addition", difficulty=0)
    with pytest.raises(ArgumentError, match="file:<path>"):
        tasks.load("file")
    with pytest.raises(ArgumentError, match="nothing after a colon"):
        tasks.load("addition:3")


def test_signature_gives_evaluated_knobs() -> None:
    knobs = tasks.signature("addition")
    assert knobs["difficulty"].annotation is int and knobs["difficulty"].default == 3
    assert list(knobs) == ["difficulty", "train", "validation", "test", "max_new_tokens"]


@pytest.mark.parametrize("name", [*(e.name.partition(":")[0] for e in tasks.catalog()), "confident:knights"])
def test_every_knob_is_explained(name: str) -> None:
    flags = options.of_task(["--task", name])
    assert {f.name for f in flags} >= {"task.max-new-tokens"}
    assert not [f.name for f in flags if not f.help]
    assert all("Raises" not in f.help and "``" not in f.help for f in flags), "only what the knob is"


@pytest.mark.parametrize("name", ["addition", "instruct", "sql", "confident:addition"])
def test_any_task_can_be_told_how_long_a_reply_may_be(name: str) -> None:
    own, told = tasks.load(name), tasks.load(name, max_new_tokens=7)
    assert told.max_new_tokens == 7 != own.max_new_tokens
    assert told.fingerprint == own.fingerprint, "the data are the same"
    with pytest.raises(ArgumentError, match=r"--task\.max-new-tokens 0"):
        tasks.load(name, max_new_tokens=0)


def test_the_catalog_loads_no_heavy_library() -> None:
    code = (
        "import sys; from equipoise import tasks; entries = tasks.catalog();"
        "assert {'addition', 'countdown', 'lists', 'knights'} <= {e.name for e in entries};"
        "print([m for m in ('torch', 'transformers', 'reasoning_gym') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
