"""The reasoning-gym library seen from a command line: its datasets, their knobs, and values given as text."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from equipoise.errors import ArgumentError, MissingExtra, UnknownName

SIZE = 20_000  # items of a dataset; some prepare a list this long


def names() -> list[str]:
    """Every dataset of the library. Raises MissingExtra."""
    return sorted(datasets())


def listed() -> list[str]:
    """Every dataset's name as the library's files register it, unless it is not installed: importing it all takes
    seconds, reading it does not."""
    spec = importlib.util.find_spec("reasoning_gym")
    if spec is None or spec.origin is None:
        return []
    found: set[str] = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        constants = dict(re.findall(r'^([A-Z_]+) = "(\w+)"', text, re.MULTILINE))
        given = re.findall(r'^register_dataset\(\s*"?(\w+)"?', text, re.MULTILINE)
        found |= {constants.get(name, name) for name in given}
    return sorted(found)


def knobs(name: str) -> dict[str, Any]:
    """The fields of a dataset's configuration with their defaults (None where it has none)."""
    if name not in datasets():
        raise UnknownName("dataset of reasoning_gym", name, datasets())
    fields = {f.name: _default(f) for f in dataclasses.fields(datasets()[name][1])}
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


def datasets() -> Mapping[str, tuple[Any, Any]]:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtra("reasoning-gym", 'pip install "equipoise[gym]"')
    from reasoning_gym.factory import DATASETS

    found: Mapping[str, tuple[Any, Any]] = DATASETS
    return found


def library_version() -> str:
    from importlib.metadata import version

    return version("reasoning-gym")


def dataset(name: str, config: Mapping[str, Any]) -> Any:
    """The seeded dataset. Raises ArgumentError with what its own validation says."""
    make, kind = datasets()[name]
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


def configuration(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
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
