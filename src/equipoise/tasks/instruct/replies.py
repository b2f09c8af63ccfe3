"""Demonstrations: plain replies put together from phrases until every constraint holds."""

from __future__ import annotations

import json
import random
from typing import Any

from equipoise.tasks.instruct.constraints import bare, has_word, verify
from equipoise.types import Prompt

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
        bodies[-1] += f"{rng.choice((' so ', ' and ', ': '))}{bare(wanted['end'])}"
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
