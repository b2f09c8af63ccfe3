"""Natural-language requests with constraints that a program can check, two by default.

    Tell me about lighthouses. Use at most 15 words. Write everything in lowercase.

A reply is right if it satisfies every constraint. Whether it names the topic is reported with each score (part
``topic``) and not rewarded, so a policy that games the constraints shows itself. Each split has topics, words, phrases
and numbers of its own: what is learned must carry over to ones never seen. The kinds follow the idea of verifiable
instructions of IFEval (2311.07911); texts, ranges and checks are our own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from equipoise.tasks.instruct_words import REQUESTS, VOCABULARY, Vocabulary
from equipoise.tasks.procedural import between
from equipoise.tasks.splits import Drawn, fingerprint
from equipoise.types import Prompt, Score, Task

SUMMARY = "Natural-language prompts with verifiable constraints."


def task(difficulty: int = 1, train: int = 4000, validation: int = 200, test: int = 500) -> Task:
    """``difficulty + 1`` constraints per prompt: two by default. Replies of at most 48 tokens."""
    between("instruct.difficulty", difficulty, 0, 2)
    sizes = {"train": train, "validation": validation, "test": test}
    for split, size in sizes.items():
        between(f"instruct.{split}", size, 1, 1_000_000)
    seed = fingerprint("instruct", difficulty)
    splits = {  # a vocabulary of its own makes a split; within it every prompt is welcome
        split: Drawn(split, size, partial(draw, VOCABULARY[split], difficulty + 1), seed, {split: 1.0})
        for split, size in sizes.items()
    }
    return Task(
        name="instruct",
        summary=SUMMARY,
        splits=splits,
        max_new_tokens=48,
        fingerprint=fingerprint("instruct", 2, difficulty, sorted(sizes.items())),
        verify=lambda prompts, texts: [verify(p, t) for p, t in zip(prompts, texts, strict=True)],
        demonstrate=demonstrate,
    )


# --- constraints


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


def _bare(text: str) -> str:
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
            lambda text, phrase: _bare(text).endswith(_bare(phrase)),
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


def draw(words: Vocabulary, count: int, rng: random.Random) -> Prompt:
    """A request about one topic with ``count`` constraints that go together, in any order."""
    kinds, weights = list(KINDS), [k.weight for k in KINDS.values()]
    names: list[str] = []
    while len(names) < count or not all(compatible(a, b) for a, b in combinations(names, 2)):
        names = rng.choices(kinds, weights, k=count)
    topic = rng.choice(words.topics)
    constraints = [{"kind": name, "value": KINDS[name].draw(rng, words)} for name in names]
    asked = [rng.choice(REQUESTS).format(topic)]
    asked += [_say(rng.choice(KINDS[c["kind"]].phrasings), c["value"]) for c in constraints]
    text = " ".join(asked)
    meta = {"topic": topic, "constraints": constraints}
    return Prompt(id="", messages=({"role": "user", "content": text},), meta=meta)


_NUMBERS = ("zero", "one", "two", "three", "four", "five")


def _say(phrasing: str, value: Any) -> str:
    if isinstance(value, int) and value < len(_NUMBERS):
        text = phrasing.format(_NUMBERS[value])
        return re.sub(r"\bone ((?:short )?sentence)s", r"one \1", text)
    return phrasing.format(*value) if isinstance(value, list) else phrasing.format(value)


# --- verdicts


def verify(prompt: Prompt, text: str) -> Score:
    """1 if every constraint holds. A reply without a letter is wrong whatever it avoids."""
    reply = text.strip()
    said = any(c.isalpha() for c in reply)
    held = {c["kind"]: float(said and KINDS[c["kind"]].holds(reply, c["value"])) for c in prompt.meta["constraints"]}
    right = all(held.values())
    return Score(
        float(right), "right" if right else "wrong", parts={**held, "topic": float(names_topic(reply, prompt))}
    )


def names_topic(text: str, prompt: Prompt) -> bool:
    """Whether the reply says the topic's noun, in the singular or the plural."""
    noun = str(prompt.meta["topic"]).split()[-1].removesuffix("s")
    return re.search(rf"\b{re.escape(noun)}", text, re.IGNORECASE) is not None


# --- demonstrations

_SHORT = (
    "{} can be a real joy",
    "many people like {}",
    "there is a lot to say about {}",
    "{} can teach us something new",
    "some people know {} very well",
    "I like to read about {}",
)
_TERSE = ("I like {}", "{} can be fun", "people enjoy {}")
_LONG = (
    "people all over the world have stories to tell about {}",
    "most of us learn about {} when we are still quite young",
    "you can find books and films about {} in nearly every town",
)
_MORE = (
    "it is easy to learn more",
    "a friend can tell you more",
    "you may enjoy finding out more",
    "small details make it interesting",
    "that is worth a closer look",
)
_TERSE_MORE = ("take a look", "learn more", "ask a friend", "give it time")
_LONG_MORE = (
    "it is easy to find out more from a friend or from a book",
    "a few small details are enough to make the whole subject interesting",
    "anyone who takes a closer look will soon find something to enjoy",
)
_WORD = ("with the word {} in mind", "when I hear the word {} I can say that")
_TERSE_WORD = ("I say {} and", "say {} and")
_ASK = ("what do you think about {}", "would you like to hear more about {}", "have you thought about {} before")
_ASK_WORD = ("does the word {} fit {}", "what does the word {} tell you about {}")


def demonstrate(prompt: Prompt) -> str | None:
    """A plain reply that names the topic and satisfies every constraint; None if none of 300 attempts does."""
    rng = random.Random(prompt.id)
    wanted = {c["kind"]: c["value"] for c in prompt.meta["constraints"]}
    for _ in range(300):
        reply = _attempt(rng, str(prompt.meta["topic"]), wanted)
        score = verify(prompt, reply)
        if score.status == "right" and score.parts["topic"] and len(reply) <= (100 if "upper" in wanted else 185):
            return reply
    return None


def _attempt(rng: random.Random, topic: str, wanted: dict[str, Any]) -> str:
    if "json" in wanted:
        said = [topic, *(wanted[k] for k in ("include",) if k in wanted)]
        text = json.dumps(dict(zip(wanted["json"], [" and ".join(said), rng.choice(_SHORT).format("it")], strict=True)))
    else:
        text = _prose(rng, topic, wanted)
    if "lower" in wanted:
        text = text.lower()
    return text.upper() if "upper" in wanted else text


def _prose(rng: random.Random, topic: str, wanted: dict[str, Any]) -> str:
    """Sentences of the wanted number, the first one about the topic."""
    long, terse = "at_least" in wanted, rng.random() < 0.5 and bool({"at_most", "upper", "bullets"} & wanted.keys())
    count = wanted.get("sentences") or wanted.get("bullets") or (rng.randint(1, 3) if long else 1)
    first: tuple[str, ...]
    more: tuple[str, ...]
    first, more, word = _LONG if long else _SHORT, _LONG_MORE if long and count < 3 else _MORE, _WORD
    if terse and not long:
        first, more, word = _TERSE, _TERSE_MORE, _TERSE_WORD
    bodies = [rng.choice(first).format(topic), *rng.sample(more, count - 1)]
    if long and count == 1:
        bodies[0] += f" and {rng.choice(_LONG_MORE)}"
    if "question" in wanted:
        bodies[-1] = _question(rng, topic, wanted, bodies[-1] if long else "")
    if "include" in wanted and not has_word(bodies[-1], wanted["include"]):
        bodies[0] = f"{rng.choice(word).format(wanted['include'])} {bodies[0]}"
    if "end" in wanted:
        bodies[-1] += f"{rng.choice((' so ', ' and ', ': '))}{_bare(wanted['end'])}"
    if "start" in wanted:
        bodies[0] = f"{wanted['start'].casefold()} {bodies[0]}"
    marks = ["." for _ in bodies[1:]] + ["?" if "question" in wanted else "!" if "exclaim" in wanted else "."]
    done = [body[0].upper() + body[1:] + mark for body, mark in zip(bodies, marks, strict=True)]
    return "\n".join(f"- {d}" for d in done) if "bullets" in wanted else " ".join(done)


def _question(rng: random.Random, topic: str, wanted: dict[str, Any], before: str) -> str:
    """A question about the topic, after ``before`` if there is something; it may hold the word to include."""
    if "include" in wanted and rng.random() < 0.5:
        asked = rng.choice(_ASK_WORD).format(wanted["include"], topic)
    else:
        asked = rng.choice(_ASK).format(topic)
    return f"{before} {rng.choice(('so', 'and'))} {asked}" if before else asked
