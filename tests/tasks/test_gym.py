"""Every dataset of reasoning-gym as a task: splits, the library's own scores, knobs."""

from __future__ import annotations

import importlib.util
import json

import pytest

from equipoise.cli.tasks import main as tasks_command
from equipoise.errors import ArgumentError, DataError, MissingExtra, UnknownName
from equipoise.tasks import gym, load, signature
from equipoise.tasks.splits import hash_of, text_of
from equipoise.verify.verdicts import Item

COMPOSITE = {"datasets": ["gcd", "lcm"]}


def config(name: str) -> dict[str, object]:
    return {"seed": 0, **(COMPOSITE if name == "composite" else {})}


def test_every_dataset_scores_its_own_answer_right_and_a_missing_one_unparsed() -> None:
    """Two items of each; each is made twice, in another order: scoring makes it again from its index."""
    assert len(gym.names()) > 100
    for name in gym.names():
        options = {"name": name, "config": config(name)}
        dataset = gym.library.dataset(name, options["config"])  # type: ignore[arg-type]
        gold = {i: dataset[i]["answer"] for i in (3, 5)}
        items = [Item("q", f"so <answer>{a}</answer>", columns={"index": i}) for i, a in gold.items() if a is not None]
        verdicts = gym.judge(items[::-1], options)
        assert [(v.value, v.status) for v in verdicts] == [(1.0, "right")] * len(items), name
        junk = [Item("q", text, columns={"index": 3}) for text in ("", "5", "<answer>((1,</answer>")]
        assert [v.status for v in gym.judge(junk, options)][:2] == ["unparsed", "unparsed"], name
        assert gym.judge(junk, options)[2].status != "error", name


def test_splits_are_disjoint_without_duplicates_and_reproducible() -> None:
    sizes = {"train": 300, "validation": 40, "test": 80}
    task, again = (load("reasoning_gym:leg_counting", **sizes) for _ in range(2))
    assert {k: len(v) for k, v in task.splits.items()} == sizes
    words = [hash_of(text_of(p)) for s in task.splits.values() for p in s]
    assert len(set(words)) == len(words) == 420
    assert [p for s in task.splits.values() for p in s] == [p for s in again.splits.values() for p in s]
    assert task.fingerprint == again.fingerprint
    other = load("reasoning_gym:leg_counting", seed="7", **sizes)
    assert other.fingerprint != task.fingerprint
    assert {hash_of(text_of(p)) for p in other.splits["train"]} != set(words[:300])


def test_a_small_space_gives_each_prompt_once_and_fewer_than_asked_for() -> None:
    task = load("reasoning_gym:count_bits", min_n=1, max_n=200)
    words = [hash_of(text_of(p)) for s in task.splits.values() for p in s]
    assert len(set(words)) == len(words)
    assert 150 < len(words) <= 200


def test_verify_gives_the_datasets_own_score_in_a_process() -> None:
    task = load("reasoning_gym:basic_arithmetic", train=8, validation=2, test=2)
    prompts = list(task.splits["train"])[:3]
    assert task.verify and task.demonstrate and task.close
    assert all("<answer>" in text_of(p) for p in prompts)
    texts = [str(task.demonstrate(prompts[0])), f"<answer>{prompts[1].answer} apples</answer>", "7"]
    scores = task.verify(prompts, texts)
    task.close()
    assert [s.status for s in scores] == ["right", "wrong", "unparsed"]
    assert scores[0].value == 1.0 and 0.0 < scores[1].value < 1.0 and scores[2].value == 0.0
    assert scores[0].answer == prompts[0].answer


def test_knobs_reach_the_dataset_and_unknown_ones_are_named() -> None:
    task = load("reasoning_gym:chain_sum", train=3, validation=1, test=1, min_terms="5", max_terms="5")
    assert all(str(p.messages[0]["content"]).count(" + ") + str(p.messages[0]["content"]).count(" - ") == 4
               for p in task.splits["train"])  # fmt: skip
    with pytest.raises(UnknownName, match="min_terms"):
        load("reasoning_gym:chain_sum", min_term=5)
    with pytest.raises(UnknownName, match="chain_sum"):
        load("reasoning_gym:chain_summ")
    with pytest.raises(ArgumentError, match=r"refuses .*min_terms"):
        load("reasoning_gym:chain_sum", min_terms=9, max_terms=2)
    with pytest.raises(ArgumentError, match=r"min_terms 'two'.*like 2"):
        load("reasoning_gym:chain_sum", min_terms="two")
    assert gym.knobs("composite").keys() >= {"datasets"}
    mixed = load("reasoning_gym:composite", datasets="gcd,lcm", train=3, validation=1, test=1)
    assert len(mixed.splits["train"]) == 3


def test_a_space_too_small_for_three_splits_says_so() -> None:
    task = load("reasoning_gym:count_bits", min_n=1, max_n=2)
    with pytest.raises(DataError, match=r"2 distinct prompts, none of which falls into.*max_n"):
        len(task.splits["train"])


def test_without_the_library_one_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "equipoise\[gym\]"'):
        load("reasoning_gym:gcd")


def test_every_dataset_offers_its_knobs_to_the_command_line_and_their_defaults_change_nothing() -> None:
    for name in gym.names():
        found = gym.parameters(name)
        assert found and "size" not in found
        given = {k: str(p.default) for k, p in found.items() if p.default is not None}
        if name != "composite":
            assert gym.library.configuration(name, given) == {"seed": 0}, name
    assert signature("reasoning_gym:chain_sum")["min_terms"].default == 2
    assert "train" in signature("reasoning_gym:chain_sum") and "name" not in signature("reasoning_gym")


def test_names_are_read_without_the_library_as_it_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gym.library.listed() == gym.names()
    assert tasks_command(["Count", "bits", "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)] == ["reasoning_gym:count_bits"]
    assert tasks_command(["--json"]) == 0
    assert "count_bits" not in capsys.readouterr().out, "only a search lists every dataset"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gym.library.listed() == []


def test_a_dataset_without_answers_offers_no_demonstrations() -> None:
    assert load("reasoning_gym:graph_color").demonstrate is None
    assert load("reasoning_gym:gcd").demonstrate is not None
