"""The task ``instruct``: constraints checked by hand, splits that share no vocabulary, right demonstrations."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.tasks import load
from equipoise.tasks.instruct import KINDS, compatible, demonstrate, names_topic, verify
from equipoise.tasks.instruct.words import VOCABULARY
from equipoise.tasks.splits import hash_of, text_of
from equipoise.types import Prompt


def asked(*constraints: tuple[str, Any], topic: str = "rivers") -> Prompt:
    return Prompt("p", messages=({"role": "user", "content": "?"},),
                  meta={"topic": topic, "constraints": [{"kind": k, "value": v} for k, v in constraints]})  # fmt: skip


HOLDS: list[tuple[str, Any, str, str]] = [  # kind, value, a reply that satisfies it, one that does not
    ("at_most", 4, "Rivers - run to sea.", "Rivers always run to sea."),
    ("at_least", 4, "Rivers run to sea.", "Rivers - run sea."),
    ("sentences", 2, "Rivers run. Do they?", "Rivers run."),
    ("sentences", 1, "Rivers run at 3.5 knots", "Rivers run! Far."),
    ("bullets", 2, "Two:\n- rivers\n* run", "- rivers\n- run\n- far"),
    ("bullets", 2, "• rivers\n  - run", "-rivers\n-run"),
    ("lower", None, "rivers run at 3.", "Rivers run."),
    ("upper", None, "RIVERS RUN AT 3.", "RIVERS RUN a."),
    ("include", "green", "Green rivers.", "Greenish rivers."),
    ("avoid", "very", "Every river.", "Very wide rivers."),
    ("no_commas", None, "Rivers run; they do.", "Rivers, too."),
    ("start", "Honestly", '"honestly, rivers"', "Rivers, honestly"),
    ("end", "thank you", "Rivers. Thank you!", "Thank you, rivers."),
    ("question", None, 'Is it "rivers?"', "Rivers? Yes."),
    ("exclaim", None, "Rivers!", "Rivers! Yes."),
    ("json", ["name", "fact"], '{"name": "rivers", "fact": 1, "more": []}', '{"name": "rivers"}'),
    ("json", ["name", "fact"], '```json\n{"name": "rivers", "fact": 1}\n```', 'Sure: {"name": 1, "fact": 1}'),
    ("json", ["name", "fact"], '{"name": "rivers", "fact": {}}', '["name", "fact"]'),
]


@pytest.mark.parametrize(("kind", "value", "good", "bad"), HOLDS)
def test_constraints_by_hand(kind: str, value: Any, good: str, bad: str) -> None:
    for reply, right in ((good, True), (f"\n {good} ", True), (bad, False)):
        score = verify(asked((kind, value)), reply)
        assert (score.value, score.status) == ((1.0, "right") if right else (0.0, "wrong")), reply
        assert score.parts[kind] == float(right)


def test_every_kind_is_checked_by_hand() -> None:
    assert {kind for kind, *_ in HOLDS} == set(KINDS)
    assert len(KINDS) >= 8


def test_a_reply_is_right_only_if_everything_holds_and_parts_say_what_did() -> None:
    prompt = asked(("lower", None), ("no_commas", None))
    assert verify(prompt, "rivers run").value == 1.0
    half = verify(prompt, "rivers, too")
    assert (half.value, half.status, dict(half.parts)) == (
        0.0,
        "wrong",
        {"lower": 1.0, "no_commas": 0.0, "topic": 1.0, "exploit": 0.0},
    )
    assert verify(prompt, "whatever").parts["topic"] == 0.0, "off the topic: reported"
    assert verify(prompt, "whatever").value == 1.0, "and not rewarded"


@pytest.mark.parametrize("reply", ["", "  \n", "...", "- 7 -"])
def test_an_empty_reply_is_wrong_whatever_it_avoids(reply: str) -> None:
    score = verify(asked(("no_commas", None), ("avoid", "very")), reply)
    assert (score.value, score.status) == (0.0, "wrong")
    assert set(score.parts.values()) == {0.0}


@given(st.text(), st.sampled_from(HOLDS))
def test_any_reply_gets_a_verdict(reply: str, case: tuple[str, Any, str, str]) -> None:
    score = verify(asked((case[0], case[1])), reply)
    assert score.status in ("right", "wrong") and score.value == float(score.status == "right")


def test_the_topic_is_named_in_singular_or_plural() -> None:
    assert names_topic("A River runs", asked(topic="rivers"))
    assert names_topic("moonlight", asked(topic="the moon"))
    assert not names_topic("the sun", asked(topic="the moon"))
    assert not names_topic("driver", asked(topic="rivers"))


# --- prompts


def slots(split: str) -> dict[str, list[str]]:
    """Every text and number that can fill a prompt of a split, by what it fills."""
    words = VOCABULARY[split]
    return {
        "words": [*words.include, *words.avoid, *words.start, *(k for pair in words.keys for k in pair)],
        "topics": [topic.split()[-1] for topic in words.topics],
        "phrases": list(words.end),
        "counts": [str(n) for n in (*words.bullets, *words.sentences)],
        "numbers": [str(n) for n in (*words.at_most, *words.at_least)],
    }


def stems(texts: list[str]) -> set[str]:
    return {re.sub(r"(ies|es|s|y|e|ing)$", "", t.casefold()) for t in texts}


def test_test_prompts_are_filled_with_what_no_other_split_shows() -> None:
    """Also across uses: a word to include in a test prompt is no topic, key or first word of training."""
    found = {split: slots(split) for split in VOCABULARY}
    for a, b in combinations(VOCABULARY, 2):
        for one, other in ((a, b), (b, a)):
            mine, theirs = found[one], found[other]
            assert not stems(mine["words"] + mine["topics"]) & stems(theirs["words"] + theirs["topics"]), (one, other)
            assert not set(mine["phrases"]) & set(theirs["phrases"])
            assert not set(mine["numbers"]) & set(theirs["numbers"] + theirs["counts"])
            if "test" in (one, other):
                assert not set(mine["counts"]) & set(theirs["counts"])


def test_no_test_word_or_number_stands_in_any_training_prompt() -> None:
    task = load("instruct", train=3000, test=500)
    seen = {w for p in task.splits["train"] for w in re.findall(r"[a-z]+|\d+", text_of(p).casefold())}
    hidden = slots("test")
    assert not seen & {w.casefold() for w in hidden["words"] + hidden["topics"] + hidden["numbers"]}
    train = " ".join(text_of(p) for p in task.splits["train"])
    assert not [phrase for phrase in hidden["phrases"] if phrase in train]


@pytest.mark.parametrize("difficulty", [0, 1, 2])
def test_prompts_have_so_many_compatible_constraints_and_say_each(difficulty: int) -> None:
    task = load("instruct", difficulty=difficulty, train=600, validation=50, test=200)
    assert [len(task.splits[s]) for s in ("train", "validation", "test")] == [600, 50, 200]
    met = set()
    for prompt in (p for s in task.splits.values() for p in s):
        kinds = [c["kind"] for c in prompt.meta["constraints"]]
        met.update(kinds)
        assert len(set(kinds)) == len(kinds) == difficulty + 1
        assert all(compatible(a, b) for a, b in combinations(kinds, 2))
        said = text_of(prompt)
        assert not re.search(r"\bone (short )?\w+s\b|\b(two|three|four) (short )?sentence\b", said), said
        assert prompt.meta["topic"] in said and "{" not in said
        for constraint in prompt.meta["constraints"]:
            value = constraint["value"]
            for part in value if isinstance(value, list) else [value]:
                assert part is None or isinstance(part, int) or f'"{part}"' in said
    assert met == set(KINDS)


def test_splits_share_no_prompt_and_are_reproducible() -> None:
    one, two = (load("instruct", train=500) for _ in range(2))
    assert list(one.splits["train"]) == list(two.splits["train"]) and one.fingerprint == two.fingerprint
    words = [hash_of(text_of(p)) for s in one.splits.values() for p in s]
    assert len(set(words)) == len(words)
    assert len({p.id for s in one.splits.values() for p in s}) == len(words)
    assert load("instruct", difficulty=2).fingerprint != one.fingerprint


def test_phrasings_differ_from_each_other() -> None:
    for kind in KINDS.values():
        assert len(set(kind.phrasings)) == len(kind.phrasings) >= 2


@pytest.mark.parametrize("difficulty", [1, 2])
def test_demonstrations_are_right_on_the_topic_and_short(difficulty: int) -> None:
    task = load("instruct", difficulty=difficulty, train=1500)
    for prompt in (p for s in task.splits.values() for p in s):
        reply = demonstrate(prompt)
        assert reply is not None, prompt
        score = verify(prompt, reply)
        assert score.value == 1.0 and score.parts["topic"] == 1.0
        assert len(reply) <= 185
        assert demonstrate(prompt) == reply


def test_difficulty_is_checked() -> None:
    with pytest.raises(ArgumentError, match="difficulty"):
        load("instruct", difficulty=7)
