"""Any dataset of the reasoning-gym library (extra ``gym``) as a task: ``reasoning_gym:<name>``.

A prompt is the dataset's question and one line that asks for ``<answer>...</answer>``; a reply without these tags is
"unparsed". The value is the dataset's own score (0 to 1), "right" is 1. Items are drawn by index from the seeded
dataset and placed by the hash of their normalised prompt, so splits are disjoint and hold no prompt twice. Scoring
runs in a process that can be killed: several datasets hand the reply to a symbolic parser.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, overload

from equipoise.errors import ArgumentError, DataError, MissingExtra, UnknownName
from equipoise.tasks.procedural import ask, between
from equipoise.tasks.splits import PATIENCE, fingerprint, hash_of, split_of, text_of
from equipoise.types import Prompt, Task
from equipoise.verify import from_pool
from equipoise.verify.pool import Pool, Settings
from equipoise.verify.verdicts import UNPARSED, Item, Options, Verdict, error, extract, judged

ASK = "Write your final answer as <answer>your answer</answer>."
ANSWER = r"<answer>(.*?)</answer>"
SIZE = 20_000  # items of a dataset; some prepare a list this long
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def task(
    name: str,
    train: int = 1000,
    validation: int = 100,
    test: int = 300,
    max_new_tokens: int = 256,
    deadline_s: float = 10.0,
    **knobs: Any,
) -> Task:
    """The dataset ``name``. Further knobs are fields of its configuration (``knobs(name)`` lists them).

    Raises MissingExtra without the library, UnknownName for a dataset or knob it has not, ArgumentError for a value
    the dataset refuses; DataError, when prompts are first looked at, if there are too few for three splits.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for split, count in sizes.items():
        between(f"reasoning_gym.{split}", count, 1, SIZE)
    config = _config(name, knobs)
    dataset = _dataset(name, config)
    deck = _Deck(name, dataset, fingerprint("reasoning_gym", name, config), sizes)
    pool = Pool("equipoise.tasks.gym:judge", {"name": name, "config": config}, Settings(deadline_s=deadline_s))
    return Task(
        name=f"reasoning_gym:{name}",
        summary=f"{name.replace('_', ' ')} ({dataset.category}) of the reasoning-gym library.",
        splits={split: _Dealt(deck, split) for split in sizes},
        max_new_tokens=max_new_tokens,
        fingerprint=fingerprint("reasoning_gym", _version(), name, config, sorted(sizes.items())),
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


def names() -> list[str]:
    """Every dataset of the library. Raises MissingExtra."""
    return sorted(_datasets())


def knobs(name: str) -> dict[str, Any]:
    """The fields of a dataset's configuration with their defaults (None where it has none)."""
    if name not in _datasets():
        raise UnknownName("dataset of reasoning_gym", name, _datasets())
    fields = {f.name: _default(f) for f in dataclasses.fields(_datasets()[name][1])}
    return {k: v for k, v in {**fields, "seed": 0}.items() if k != "size"}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The knobs that can be given as text, typed for a command line: lists are written as JSON."""
    found = {}
    for knob, default in knobs(name).items():
        default = default.value if isinstance(default, Enum) else default
        kind = type(default) if isinstance(default, bool | int | float | str) else str | None
        shown = json.dumps(default) if isinstance(default, list | tuple | dict) else default
        if default is None or isinstance(shown, bool | int | float | str):
            found[knob] = inspect.Parameter(knob, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=kind)
    return found


def judge(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Scores by the dataset itself; each item is made again from its index. Runs in a verifier's process."""
    name, config = options["name"], options["config"]
    key = json.dumps([name, config], default=str)
    if key not in _MADE:
        _MADE[key] = _dataset(name, config)
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


def _datasets() -> Mapping[str, tuple[Any, Any]]:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtra("reasoning-gym", 'pip install "equipoise[gym]"')
    from reasoning_gym.factory import DATASETS

    found: Mapping[str, tuple[Any, Any]] = DATASETS
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("reasoning-gym")


def _dataset(name: str, config: Mapping[str, Any]) -> Any:
    """The seeded dataset. Raises ArgumentError with what its own validation says."""
    make, kind = _datasets()[name]
    given = {**config, "size": SIZE}
    if name == "composite":
        from reasoning_gym.composite import DatasetSpec

        given["datasets"] = [DatasetSpec(name=n, weight=1.0, config={}) for n in config["datasets"]]
    last: Exception | None = None
    while given["size"] >= 100:
        try:
            return make(config=kind(**given))
        except (AssertionError, ValueError, TypeError) as fault:
            last = fault
            given["size"] //= 5  # some spaces hold fewer items, and say so
    raise ArgumentError(f"reasoning_gym:{name} refuses {dict(config)}: {last}") from last


def _config(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's knobs as the dataset's configuration, text turned into the type of the default."""
    allowed = knobs(name)
    for knob in given:
        if knob not in allowed:
            raise UnknownName(f"knob of reasoning_gym:{name}", knob, allowed)
    config = {knob: _typed(name, knob, value, allowed[knob]) for knob, value in given.items()}
    changed = {knob: value for knob, value in config.items() if _plain(value) != _plain(allowed[knob])}
    return {"seed": 0, **changed}


def _typed(name: str, knob: str, value: Any, default: Any) -> Any:
    if isinstance(default, Enum) and isinstance(value, str):
        choices = {e.value: e for e in type(default)}
        if value not in choices:
            raise ArgumentError(f"--task.{knob} {value!r}: expected one of {', '.join(map(str, choices))}")
        return choices[value]
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if name == "composite" and knob == "datasets":
        return value.split(",")
    try:
        parsed = json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        raise ArgumentError(
            f"--task.{knob} {value!r}: expected a value like {json.dumps(default, default=str)} (JSON)"
        ) from None
    return tuple(parsed) if isinstance(default, tuple) else parsed


def _plain(value: Any) -> str:
    """A value as JSON: lists and tuples, an enumeration and its value, are the same."""
    return json.dumps(value, default=str, sort_keys=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _text(answer: Any) -> str | None:
    return None if answer is None else str(answer)
