"""Any dataset of the reasoning-gym library (extra ``gym``) as a task: ``reasoning_gym:<name>``.

A prompt is the dataset's question and one line that asks for ``<answer>...</answer>``; a reply without these tags is
"unparsed". The value is the dataset's own score (0 to 1), "right" is 1. Items are drawn by index from the seeded
dataset and placed by the hash of their normalised prompt, so splits are disjoint and hold no prompt twice. Scoring
runs in a process that can be killed: several datasets hand the reply to a symbolic parser.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, overload

from equipoise.errors import DataError
from equipoise.tasks.gym import library
from equipoise.tasks.gym.library import SIZE, knobs, names, parameters
from equipoise.tasks.procedural import ask, between
from equipoise.tasks.splits import PATIENCE, fingerprint, hash_of, split_of, text_of
from equipoise.types import Prompt, Task
from equipoise.verify import from_pool
from equipoise.verify.pool import Pool, Settings
from equipoise.verify.verdicts import UNPARSED, Item, Options, Verdict, error, extract, judged

__all__ = ["demonstrate", "judge", "knobs", "names", "parameters", "task"]

ASK = "Write your final answer as <answer>your answer</answer>."
ANSWER = r"<answer>(.*?)</answer>"
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def task(
    name: str,
    train: int = 1000,
    validation: int = 100,
    test: int = 300,
    deadline_s: float = 10.0,
    **knobs: Any,
) -> Task:
    """The dataset ``name``. Further knobs are fields of its configuration (``knobs(name)`` lists them).

    Raises MissingExtra without the library, UnknownName for a dataset or knob it has not, ArgumentError for a value
    the dataset refuses; DataError, when prompts are first looked at, if there are too few for three splits.

    train, validation, test: prompts of these splits, at most. deadline_s: seconds that a call of the dataset's scorer
    may take.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for split, count in sizes.items():
        between(f"reasoning_gym.{split}", count, 1, SIZE)
    config = library.configuration(name, knobs)
    dataset = library.dataset(name, config)
    deck = _Deck(name, dataset, fingerprint("reasoning_gym", name, config), sizes)
    pool = Pool("equipoise.tasks.gym:judge", {"name": name, "config": config}, Settings(deadline_s=deadline_s))
    return Task(
        name=f"reasoning_gym:{name}",
        summary=f"{name.replace('_', ' ')} ({dataset.category}) of the reasoning-gym library.",
        splits={split: _Dealt(deck, split) for split in sizes},
        max_new_tokens=256,
        fingerprint=fingerprint("reasoning_gym", library.library_version(), name, config, sorted(sizes.items())),
        verify=from_pool(pool),
        demonstrate=None if dataset[0]["answer"] is None else demonstrate,
        close=pool.close,
    )


def demonstrate(prompt: Prompt) -> str | None:
    """The library's own answer in its tags, where the dataset gives one."""
    return None if prompt.answer is None else f"<answer>{prompt.answer}</answer>"


@dataclass
class _Deck:
    """Items drawn once, when first looked at, and dealt to the splits by hash: slow generators waste nothing."""

    name: str
    dataset: Any
    seed: str
    sizes: Mapping[str, int]

    @cached_property
    def hands(self) -> dict[str, list[Prompt]]:
        hands: dict[str, list[Prompt]] = {split: [] for split in self.sizes}
        seen: set[int] = set()
        misses = 0
        for index in self._indices():
            item = self.dataset[index]
            prompt = ask(f"{str(item['question']).strip()}\n\n{ASK}", _text(item["answer"]), index=index)
            word = hash_of(text_of(prompt))
            split = split_of(word, SHARES)
            misses = misses + 1 if word in seen else 0
            if word not in seen and len(hands[split]) < self.sizes[split]:
                hands[split].append(replace(prompt, id=f"{word:016x}"))
            seen.add(word)
            if misses >= PATIENCE or all(len(hands[s]) >= n for s, n in self.sizes.items()):
                break
        empty = [split for split, hand in hands.items() if not hand]
        if empty:
            found = f"{len(seen)} distinct prompts, none of which falls into {', '.join(empty)}"
            raise DataError(f"reasoning_gym:{self.name} gave {found}. Widen its knobs: {', '.join(knobs(self.name))}")
        return hands

    def _indices(self) -> Iterator[int]:
        rng = random.Random(self.seed)
        return iter(rng.sample(range(len(self.dataset)), len(self.dataset)))


@dataclass(frozen=True)
class _Dealt(Sequence[Prompt]):
    deck: _Deck
    split: str

    def __len__(self) -> int:
        return len(self.deck.hands[self.split])

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        return self.deck.hands[self.split][index]


def judge(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Scores by the dataset itself; each item is made again from its index. Runs in a verifier's process."""
    name, config = options["name"], options["config"]
    key = json.dumps([name, config], default=str)
    if key not in _MADE:
        _MADE[key] = library.dataset(name, config)
    dataset = _MADE[key]

    return [_judge(dataset, _entry(dataset, item.columns["index"]), item.text) for item in items]


_MADE: dict[str, Any] = {}  # name and configuration -> dataset, in a verifier's process


@lru_cache(maxsize=256)
def _entry(dataset: Any, index: int) -> Any:
    return dataset[index]


def _judge(dataset: Any, entry: Any, text: str) -> Verdict:
    """A scorer that raises on a reply but not on the dataset's own answer could not read the reply."""
    found = extract(text, ANSWER)
    if found is None:
        return UNPARSED
    try:
        value = float(dataset.score_answer(found, entry))
    except Exception as fault:  # noqa: BLE001 - boundary: the library's scorers raise what they like
        try:
            dataset.score_answer(_text(entry["answer"]), entry)
        except Exception:  # noqa: BLE001
            return error(f"the dataset's scorer raised {type(fault).__name__}: {fault}")
        return UNPARSED
    return replace(judged(value >= 1.0, found), value=value)


def _text(answer: Any) -> str | None:
    return None if answer is None else str(answer)
