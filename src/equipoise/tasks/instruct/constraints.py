"""The kinds of constraints: how each is asked, how it is checked, what goes together, and the verdict on a reply."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.tasks.instruct.words import Vocabulary
from equipoise.types import Prompt, Score


@dataclass(frozen=True)
class Kind:
    """One kind of constraint. ``draw``: its value (JSON-able) for one prompt; ``holds``: of a stripped reply;
    ``weight``: how often it is drawn (kinds that a small model meets now and then, more often than those it hardly
    ever meets: where nothing succeeds nothing can be reinforced)."""

    name: str
    phrasings: tuple[str, ...]  # "{}" or "{0}", "{1}" are filled with the value
    holds: Callable[[str, Any], bool]
    draw: Callable[[random.Random, Vocabulary], Any] = lambda rng, words: None
    weight: int = 1


def words_of(text: str) -> list[str]:
    """Whitespace-separated pieces that hold a letter or a digit."""
    return [w for w in text.split() if any(c.isalnum() for c in w)]


def sentences_of(text: str) -> list[str]:
    """Pieces that end in . ! or ? before a space or the end, or at the end of the text."""
    return [s for s in re.split(r"(?<=[.!?])[\"')]*\s+", text) if any(c.isalnum() for c in s)]


def has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def bare(text: str) -> str:
    return text.casefold().strip().rstrip(".!?\"'")


def _first_word(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", (text.split() or [""])[0]).casefold()


def _is_json(text: str, keys: Sequence[str]) -> bool:
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    try:
        value = json.loads(blocks[0] if len(blocks) == 1 else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(keys) <= set(value)


def _bullets(text: str) -> int:
    return len(re.findall(r"^[ \t]*[-*•][ \t]+\S", text, re.MULTILINE))


KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind(
            "at_most",
            ("Answer in {} words or fewer.", "Use at most {} words.", "Write no more than {} words."),
            lambda text, n: len(words_of(text)) <= n,
            lambda rng, words: rng.choice(words.at_most),
            weight=6,
        ),
        Kind(
            "at_least",
            ("Use at least {} words.", "Write {} words or more.", "Write no fewer than {} words."),
            lambda text, n: len(words_of(text)) >= n,
            lambda rng, words: rng.choice(words.at_least),
            weight=2,
        ),
        Kind(
            "sentences",
            ("Answer in {} short sentences.", "Write exactly {} sentences.", "Use {} short sentences."),
            lambda text, n: len(sentences_of(text)) == n,
            lambda rng, words: rng.choice(words.sentences),
            weight=4,
        ),
        Kind(
            "bullets",
            ("List {} bullet points, each starting with a dash (-).", "Use {} bullet points (-)."),
            lambda text, n: _bullets(text) == n,
            lambda rng, words: rng.choice(words.bullets),
        ),
        Kind(
            "lower",
            ("write in lowercase letters only.", "Use only lowercase letters.", "Write everything in lowercase."),
            lambda text, _: text == text.lower(),
        ),
        Kind(
            "upper",
            ("WRITE IN CAPITAL LETTERS ONLY.", "WRITE EVERYTHING IN UPPERCASE.", "USE ONLY CAPITAL LETTERS."),
            lambda text, _: text == text.upper(),
        ),
        Kind(
            "include",
            ('Use the word "{}".', 'Use the word "{}" in it.', 'Include the word "{}".'),
            has_word,
            lambda rng, words: rng.choice(words.include),
            weight=4,
        ),
        Kind(
            "avoid",
            ('Do not use the word "{}".', 'Avoid the word "{}".', 'Never say the word "{}".'),
            lambda text, word: not has_word(text, word),
            lambda rng, words: rng.choice(words.avoid),
            weight=4,
        ),
        Kind(
            "no_commas",
            ("Do not use commas.", "Use no commas.", "Write without any commas."),
            lambda text, _: "," not in text,
            weight=5,
        ),
        Kind(
            "start",
            ('Start your answer with "{}".', 'Begin with the word "{}".', 'Start with the word "{}".'),
            lambda text, word: _first_word(text) == word.casefold(),
            lambda rng, words: rng.choice(words.start),
            weight=2,
        ),
        Kind(
            "end",
            ('End your answer with "{}".', 'End with the words "{}".', 'Finish with "{}".'),
            lambda text, phrase: bare(text).endswith(bare(phrase)),
            lambda rng, words: rng.choice(words.end),
        ),
        Kind(
            "question",
            ("Answer with a question.", "End with a question.", "Make it a question."),
            lambda text, _: text.rstrip("\"')").endswith("?"),
            weight=4,
        ),
        Kind(
            "exclaim",
            ("End with an exclamation mark.", "Finish with an exclamation mark!"),
            lambda text, _: text.rstrip("\"')").endswith("!"),
            weight=2,
        ),
        Kind(
            "json",
            (
                'Give a JSON object with the keys "{0}" and "{1}".',
                'Answer in JSON with the keys "{0}" and "{1}".',
                'Reply only with JSON that has the keys "{0}" and "{1}".',
            ),
            _is_json,
            lambda rng, words: list(rng.choice(words.keys)),
        ),
    )
}

_CONFLICTS: dict[str, str] = {  # a kind -> those it does not go with
    "at_most": "at_least json sentences bullets",
    "at_least": "json upper",
    "lower": "upper",
    "upper": "json",
    "start": "json bullets",
    "end": "question json",
    "no_commas": "json",
    "question": "json bullets exclaim",
    "exclaim": "json",
    "bullets": "json sentences",
    "json": "sentences",
}


def compatible(a: str, b: str) -> bool:
    """Whether some natural reply of 48 tokens satisfies both kinds."""
    return a != b and b not in _CONFLICTS.get(a, "").split() and a not in _CONFLICTS.get(b, "").split()


def verify(prompt: Prompt, text: str) -> Score:
    """1 if every constraint holds. A reply without a letter is wrong whatever it avoids."""
    reply = text.strip()
    said = any(c.isalpha() for c in reply)
    held = {c["kind"]: float(said and KINDS[c["kind"]].holds(reply, c["value"])) for c in prompt.meta["constraints"]}
    right, topic = all(held.values()), names_topic(reply, prompt)
    parts = {**held, "topic": float(topic), "exploit": float(right and not topic)}
    return Score(float(right), "right" if right else "wrong", parts=parts)


def names_topic(text: str, prompt: Prompt) -> bool:
    """Whether the reply says the topic's noun, in the singular or the plural."""
    noun = str(prompt.meta["topic"]).split()[-1].removesuffix("s")
    return re.search(rf"\b{re.escape(noun)}", text, re.IGNORECASE) is not None
